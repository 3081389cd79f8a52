"""Is the calibration right, by colour alone? Points that are found again must lie where the cameras say they can.

Needs no depth, and says nothing where too few points are found again.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from scene4d.data.diagnose.colour.colour_findings import Motion, ViewPair, misfit_findings, motion_findings
from scene4d.data.diagnose.colour.epipolar import verified
from scene4d.data.diagnose.colour.point_matches import Points, matches_of, points_of
from scene4d.data.diagnose.finding import Finding
from scene4d.data.timeline.stretches import full_sizes
from scene4d.errors import Scene4DError
from scene4d.geometry.camera import invert_rigid
from scene4d.types import Cameras, Recording

WIDTH = 480
PIXELS = 30_000_000  # decoded, at most: fewer instants of large pictures
INSTANTS, APART = 8, (1, 2, 4)  # instants spread over the recording, and how far apart two are compared
GAPS = (1, 4)  # frames between two pictures of a camera that moves
MAX_CAMERAS = 6
MOVED = 1 / 100  # of the picture's width
SAME = 3.0  # px: matches of two instants that are nearer to each other are one and the same
TURNED, SHIFTED = 0.05, 0.5  # rad, m: a camera that moves so far sees another picture


@dataclass(frozen=True)
class ColourReport:
    """What points that were found again show."""

    findings: tuple[Finding, ...] = ()
    num_pairs: int = 0
    """Pairs of views with enough such points."""
    error_px: float | None = None
    """How far they lie from where the cameras say, mostly, px of pictures at most `WIDTH` wide."""


@dataclass(frozen=True)
class _Camera:
    """Frames of one camera that were looked at: points and calibration of each, by its index."""

    name: str
    points: dict[int, Points]
    views: dict[int, Cameras]

    @property
    def width(self) -> int:
        return next(iter(self.views.values())).width

    def matches(self, frames: tuple[int, int]) -> Tensor:
        first, second = (self.points[i] for i in frames)
        return matches_of(first, second)

    def seen(self, pairs: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
        return [pair for pair in pairs if self.points.keys() >= {*pair}]


def check_colour(recording: Recording, *, moving: Sequence[str]) -> ColourReport:
    """Compare pictures of a recording by the points that they share.

    Args:
        moving: cameras whose recorded pose changes.
    """
    cameras = _looked_at(recording, moving=moving)
    findings, pairs = [], []
    metres = recording.info.get("units", "m") == "m"
    for camera in cameras:
        moves = camera.name in moving
        spread, near = (camera.seen(pairs) for pairs in (_spread_pairs(recording), _near_pairs(recording)))
        motions = [m for frames in spread if (m := _motion(camera, frames, metres=metres)) is not None]
        findings += motion_findings(camera.name, motions, moves=moves)
        if moves and camera.name not in {f.camera for f in findings}:
            pairs += [p for frames in near if (p := _along(camera, frames)) is not None]
    wrong = {f.camera for f in findings}
    trusted = [c for c in cameras if c.name not in wrong]
    for first, second in itertools.combinations(trusted, 2):
        pairs += _across(first, second, still=not {first.name, second.name} & {*moving})
    errors = torch.tensor([p.error for p in pairs])
    findings += misfit_findings(pairs)
    return ColourReport(tuple(findings), len(pairs), error_px=float(errors.median()) if pairs else None)


def _instants(recording: Recording) -> list[int]:
    largest = max(w * h for w, h in full_sizes(recording).values())
    most = max(3, min(INSTANTS, PIXELS // (largest * len(recording.cameras[:MAX_CAMERAS]))))
    return torch.linspace(0, recording.num_frames - 1, min(most, recording.num_frames)).round().long().tolist()


def _spread_pairs(recording: Recording) -> list[tuple[int, int]]:
    instants = _instants(recording)
    return [(a, instants[k + gap]) for gap in APART for k, a in enumerate(instants) if k + gap < len(instants)]


def _near_pairs(recording: Recording) -> list[tuple[int, int]]:
    anchors = _instants(recording)[::2]
    return [(a, a + gap) for a in anchors for gap in GAPS if a + gap < recording.num_frames]


def _looked_at(recording: Recording, *, moving: Sequence[str]) -> list[_Camera]:
    """The cameras with the points of every frame that is compared; one that cannot be read is not (see `--deep`)."""
    found = []
    for name in recording.cameras[:MAX_CAMERAS]:
        pairs = _spread_pairs(recording) + (_near_pairs(recording) if name in moving else [])
        width, height = full_sizes(recording)[name]
        size = (min(WIDTH, width), round(height * min(WIDTH, width) / width))
        points, views = {}, {}
        for i in sorted({*_instants(recording), *(i for pair in pairs for i in pair)}):
            try:
                episode = recording.read(i, i + 1, cameras=[name], size=size)
            except Scene4DError:
                continue
            points[i] = points_of(episode.views[name].rgb[0])
            views[i] = episode.views[name].cameras[0]
        found += [_Camera(name, points, views)] if points else []
    return found


def _motion(camera: _Camera, frames: tuple[int, int], *, metres: bool) -> Motion | None:
    """How much of the picture moved between two frames; None where too little is found again."""
    matches = camera.matches(frames)
    matches = matches[verified(matches)]
    if not len(matches):
        return None
    relative = camera.views[frames[1]].viewmats @ invert_rigid(camera.views[frames[0]].viewmats)
    angle = torch.arccos(((relative[:3, :3].trace() - 1) / 2).clamp(-1, 1))
    far = float(angle) > TURNED or (metres and float(relative[:3, 3].norm()) > SHIFTED)
    return Motion(float(_has_moved(matches, camera).float().mean()), far=far)


def _has_moved(matches: Tensor, camera: _Camera) -> Tensor:
    return (matches[:, :2] - matches[:, 2:]).norm(dim=-1) > MOVED * camera.width


def _along(camera: _Camera, frames: tuple[int, int]) -> ViewPair | None:
    """Two frames of a camera that moves. What moves along with it, such as a gripper, tells nothing of it."""
    matches = camera.matches(frames)
    matches = matches[_has_moved(matches, camera)]
    views = (camera.views[frames[0]], camera.views[frames[1]])
    return _pair((camera.name,), matches, views=views)


def _across(first: _Camera, second: _Camera, *, still: bool) -> list[ViewPair]:
    """Two cameras at the instants that both have; what two still cameras see at several instants adds up."""
    names, shared = (first.name, second.name), sorted(first.points.keys() & second.points.keys())
    matches = {i: matches_of(first.points[i], second.points[i]) for i in shared}
    if still:
        together = torch.cat(list(matches.values()))
        matches = {shared[0]: _first_of_each(together)} if len(together) else {}
    pairs = [_pair(names, m, views=(first.views[i], second.views[i])) for i, m in matches.items()]
    return [pair for pair in pairs if pair is not None]


def _first_of_each(matches: Tensor) -> Tensor:
    """Matches [m 4] without those that another is as good as equal to."""
    _, group = torch.unique(matches.div(SAME).round(), dim=0, return_inverse=True)
    first = torch.full((int(group.max()) + 1,), len(matches)).scatter_reduce_(
        0, group, torch.arange(len(matches)), "amin"
    )
    return matches[first]


def _pair(names: tuple[str, ...], matches: Tensor, *, views: tuple[Cameras, Cameras]) -> ViewPair | None:
    agreed = verified(matches)
    return ViewPair(names, matches[agreed], views=views) if agreed.any() else None
