"""Causal 4D reconstruction: frames come one instant at a time, the scene so far is there after each."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np
import torch

from scene4d.check import check
from scene4d.errors import DepthError, GaussianError, TimestampError
from scene4d.gaussians.s4d.s4d_growing import GrowingS4D
from scene4d.lift.refine.refine_frame import refine_frame
from scene4d.lift.rgbd.unproject import LiftConfig
from scene4d.lift.stream.arap_icp import ArapIcpConfig
from scene4d.lift.stream.measure import contradicted_rows, measure_rows
from scene4d.lift.stream.motion_segmentation import MotionSegmentationConfig, follow_motion
from scene4d.lift.stream.rigid_anchors import Anchors
from scene4d.lift.stream.row_store import RowStore, scene_of_rows
from scene4d.lift.stream.spawn import spawn_rows
from scene4d.lift.stream.visibility import (
    FrameObservation,
    Tolerances,
    Visibility,
    observe_frames,
    unexplained_points,
    visibility_of,
)
from scene4d.scene import Scene4D
from scene4d.types import Frames, Gaussians


@dataclass(frozen=True)
class StreamConfig:
    """How a scene is gathered from a stream of RGB-D frames."""

    lift: LiftConfig = field(default_factory=lambda: LiftConfig(footprint=0.4, drop_flying=False))
    """How pixels become Gaussians."""
    split: MotionSegmentationConfig = field(default_factory=MotionSegmentationConfig)
    """How moving rows are separated from static ones."""
    track: ArapIcpConfig = field(default_factory=ArapIcpConfig)
    """How motion is found."""
    depth_tolerance: float = 0.004
    """Depth error in m that counts as agreement, at distance 0."""
    depth_tolerance_relative: float = 0.004
    """What is added to it a metre of distance."""
    colour_tolerance: float = 0.12
    """Colour error a channel that counts as agreement."""
    backdrop: float = 8.0
    """Depth in m given to pixels that have a colour but nothing near (a simulator's sky); 0 = they are ignored."""
    polish_first: int = 30
    """Gradient steps on the first frames: static rows are sharp from the start."""
    polish: int = 8
    """Gradient steps on the newest frames when the present Gaussians, or the scene, are asked for."""
    colour_tolerance_moving: float = 0.3
    """The same for moving rows, whose shading changes as they turn."""
    colour_share: float = 0.3
    """Share of the newest colour in what moving rows are next recognised by."""
    num_skin: int = 3
    """Anchors that a moving Gaussian is bound to."""
    max_gaussians: int = 120_000
    """Most living Gaussians; beyond, those unseen for longest go first, then the least confident."""
    max_past: int = 400_000
    """Most finished Gaussians kept for the past; beyond, the oldest are forgotten, unless they wait for a history."""
    patience: int = 30
    """Frames after which a moving Gaussian goes that others measure better."""
    keep_instants: int = 0
    """Least number of newest instants that stay in memory; older ones go to the history, if there is one. 0 = all."""


class SceneStream:
    """A scene that grows with every frame.

    `update` compares the rows in memory with what is measured now: those that agree are kept and measured anew, those
    that a camera looked through have moved or are gone, those that lie behind are kept as they were. Rows that the
    frames contradict, and those that move along with them, are bound to anchors whose rigid motion is tracked, and keep
    their ids. Pixels that nothing explains become rows with new ids. The past is never revised: what existed when, and
    how it moved, is after k frames what every later scene holds; only living rows look as they were refined last.

    `update` alone changes anything: `gaussians` and `scene` return the same however often they are called.

    Args:
        history: where instants beyond config.keep_instants go, and rows that ended before them.
    """

    def __init__(self, config: StreamConfig | None = None, *, history: GrowingS4D | None = None) -> None:
        self.config, self.history = config or StreamConfig(), history
        self.memory = RowStore(self.config.num_skin)
        self.anchors = Anchors()
        self.times: list[float] = []
        self._count = 0
        self._observation: FrameObservation | None = None
        self._now: Gaussians | None = None

    def update(self, frames: Frames, *, time: float) -> None:
        """Add the frames [v] of one instant `time` s, later than all before.

        Raises:
            TimestampError: time does not increase. ShapeError: not [v h w].
            DepthError: the frames have no depth, or the first ones none anywhere.
            ResourceError: the history cannot be written; the frames are added, the next update hands over again.
        """
        check(rgb=(frames.rgb, "v h w 3"), depth=(frames.depth, "v h w"))
        if self.times and not time > self.times[-1]:
            last = f"> {self.times[-1]}"
            raise TimestampError("time does not increase", field="time", frame=self._count, found=time, expected=last)
        observation = observe_frames(frames, config=self.lift_config, sky_depth=self.config.backdrop)
        first = len(self.memory) == 0
        if first:
            if len(observation.points) == 0:
                raise DepthError("is measured nowhere", field="depth", frame=0, fix="begin with a frame that has depth")
            self._spawn(observation, np.arange(len(observation.points)), time=time)
            visibility = self._visibility(observation)
        else:
            visibility = self._follow(observation)
            dead = contradicted_rows(self.memory, observation, visibility=visibility)
            self.memory.retire(dead, last=self.times[-1])
            visibility = self._spawn_unexplained(observation, visibility.pick(~dead), time=time)
        share = self.config.colour_share
        measure_rows(self.memory, observation, visibility=visibility, frame=self._count, colour_share=share)
        if first:
            refined = self._refined(observation, num_steps=self.config.polish_first)
            self.memory.set_rest_look(self.memory.shown(), refined)
        self._observation, self._now = observation, None
        self._limit(time)
        self.anchors.record()
        self.times.append(time)
        self._count += 1
        self._hand_over()

    def gaussians(self) -> Gaussians:
        """The scene now [n]: what is seen as it was measured last, what is hidden as it was remembered; ids persist.

        Refined to render sharp from the newest views (config.polish steps); extras["confidence"] is 0 for the sky.
        """
        if self._observation is None:
            fix = "call update(frames, time=...) first"
            raise GaussianError("nothing has been seen yet", field="gaussians", fix=fix)
        if self._now is None:
            self._now = self._refined(self._observation, num_steps=self.config.polish)
        return self._now

    def _refined(self, observation: FrameObservation, *, num_steps: int) -> Gaussians:
        memory = self.memory
        rows = memory.shown()
        now = memory.gaussians(rows, observation.lifted)
        if num_steps <= 0:
            return now
        # Static rows start from what they were refined to before, but are held to what was measured.
        still = torch.from_numpy(~memory.moving[rows])[:, None]
        measured = now.replace(
            means=torch.where(still, torch.from_numpy(memory.x[rows]).float(), now.means),
            scales=torch.where(still, torch.from_numpy(memory.spawn_scales[rows]), now.scales),
        )
        spacing = torch.from_numpy(memory.spacing[rows])
        free = torch.from_numpy(memory.seen[rows] == memory.seen.max())
        return refine_frame(now, observation.frames, measured=measured, spacing=spacing, free=free, num_steps=num_steps)

    def scene(self) -> Scene4D:
        """The scene so far: base at rest, motion over all times, alive from first to last second (inf = living).

        Living rows look as `gaussians` shows them, so that `.at` the last time draws the same picture. Instants that
        were handed over, and rows that ended before the rest, are left out.
        """
        if self._observation is None:
            raise GaussianError("nothing has been seen yet", field="scene", fix="call update(frames, time=...) first")
        memory, now, shown = self.memory, self.gaussians(), self.memory.shown()
        # At an edge a pixel may be won by a row of another surface: what is seen there must not become its place.
        distance = np.linalg.norm(now.means.double().numpy() - memory.x[shown], axis=-1)
        near = (memory.lifted[shown] >= 0) & (distance < 1.5 * memory.spacing[shown])
        seen = np.nonzero(~memory.moving[shown] | near)[0]
        appearance = memory.at_rest(shown[seen], now.pick(torch.from_numpy(seen)), anchors=self.anchors)
        everything = memory.everything(rows=shown[seen], appearance=appearance)
        return scene_of_rows(everything, anchors=self.anchors, times=self.times)

    def _hand_over(self) -> None:
        """Give instants that are too old for memory, and rows that ended before the others, to the history."""
        keep = self.config.keep_instants
        if not keep or len(self.times) < 2 * keep:
            return
        count = len(self.times) - keep
        before = self.times[count]
        if self.history is not None:
            finished = self.memory.finished(before=before) or [self.memory.empty()]
            self.history.append(scene_of_rows(finished, anchors=self.anchors, times=self.times[:count]))
        # Only what has arrived is forgotten: after a full disk the next update hands it over again.
        self.memory.release(before=before)
        self.anchors.forget(count)
        self.times = self.times[count:]

    @property
    def lift_config(self) -> LiftConfig:
        """The lift's settings, with pixel numbers kept."""
        return replace(self.config.lift, keep_pixels=True)

    @property
    def tolerances(self) -> Tolerances:
        """What counts as agreement."""
        c = self.config
        return Tolerances(c.depth_tolerance, c.depth_tolerance_relative, c.colour_tolerance)

    def _visibility(self, observation: FrameObservation, rows: np.ndarray | slice = slice(None)) -> Visibility:
        """How the frames see the rows where they are now."""
        memory, limits = self.memory, self.tolerances
        colour = np.where(memory.moving[rows], self.config.colour_tolerance_moving, limits.colour)
        limits = replace(limits, colour=colour)
        return visibility_of(memory.x[rows], observation, colours=memory.colour[rows], tolerances=limits)

    def _follow(self, observation: FrameObservation) -> Visibility:
        """Find what moved since the last frame and carry it; returns how the frames see the rows after that."""
        visibility = self._visibility(observation)
        follow = partial(follow_motion, tolerances=self.tolerances, config=self.config.split, track=self.config.track)
        if not follow(self.memory, self.anchors, observation=observation, visibility=visibility):
            return visibility
        moved = np.nonzero(self.memory.moving)[0]
        return visibility.patched(moved, self._visibility(observation, moved))

    def _spawn_unexplained(self, observation: FrameObservation, visibility: Visibility, *, time: float) -> Visibility:
        memory = self.memory
        new = unexplained_points(observation, memory, visibility=visibility, tolerances=self.tolerances)
        chosen = np.nonzero(new)[0]
        if len(chosen) == 0:
            return visibility
        self._spawn(observation, chosen, time=time)
        return visibility.followed_by(self._visibility(observation, slice(len(memory) - len(chosen), None)))

    def _spawn(self, observation: FrameObservation, chosen: np.ndarray, *, time: float) -> None:
        spawn_rows(self.memory, self.anchors, observation=observation, chosen=chosen, time=time, frame=self._count)

    def _limit(self, time: float) -> None:
        """Let spare moving rows go, and keep to the caps."""
        memory, config = self.memory, self.config
        last = self.times[-1] if self.times else time
        memory.retire(memory.moving & (memory.spare > config.patience), last=last)
        surplus = len(memory) - config.max_gaussians
        if surplus > 0:
            order = np.lexsort((memory.extra_confidence[:, 0], memory.seen))
            memory.retire(np.isin(np.arange(len(memory)), order[:surplus]), last=last)
        if self.history is None or not config.keep_instants:
            memory.forget(config.max_past)
