"""The viewer's scene and its controls: one panel, shared by all who look."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch

from scene4d.apps.terminal.picture_strips import colour_picture
from scene4d.apps.viewer.arrays import (
    Instant,
    arrows_between,
    frusta_of,
    instants_of,
    splats_of,
    uncertainty_colours,
    uncertainty_of,
)
from scene4d.errors import Scene4DError
from scene4d.gaussians.formats.points import robust_bounds
from scene4d.geometry.camera import intrinsics_from_fov, invert_rigid
from scene4d.geometry.rotation import matrix_from_quat
from scene4d.render.render import render
from scene4d.scene import Scene4D
from scene4d.types import Cameras

CENTIMETRES = 100.0
"""viser keeps covariances in half precision, which in m^2 has nothing left for splats of a millimetre."""
WIDEST = 2.0
"""Standard deviation in m beyond which half precision overflows in cm^2."""
OBSERVED, PREDICTED = (40, 120, 220), (235, 120, 20)
BACKGROUND_SIDE = 320


class Rollout(Protocol):
    """The agent at work."""

    def __call__(self, task: str, *, num_steps: int, seed: int) -> Iterable[Scene4D]:
        """The future, chunk by chunk."""
        ...


@dataclass(frozen=True)
class PanelConfig:
    """How the panel begins."""

    most_splats: int = 60_000
    """Splats sent at most; of more an even share is drawn, larger."""
    fps: float = 12.0
    """Instants a second while it plays."""
    task: str = ""
    """What the agent is asked first."""
    num_steps: int = 24
    """Steps of a rollout."""
    seed: int = 0
    """Seed of a rollout first."""


class Panel:
    """A scene on a viser server: what is drawn follows the controls, and nothing is drawn twice at a time."""

    def __init__(
        self,
        server: Any,
        scene: Scene4D,
        *,
        cameras: Mapping[str, Cameras],
        rollout: Rollout | None = None,
        config: PanelConfig | None = None,
    ) -> None:
        """
        Args:
            server: of viser. cameras: {name: Cameras [] or [t]} of the recording.
            rollout: what the agent's button calls; None = there is no such button.
        """
        self.server, self.cameras, self.rollout = server, dict(cameras), rollout
        self.config = config if config is not None else PanelConfig()
        self.recorded = instants_of(scene)
        self.instants: list[Instant] = self.recorded
        self._drawing, self._wanted, self._rolling = threading.Lock(), threading.Event(), threading.Lock()
        self._stale = threading.Event()
        self._frusta: dict[str, Any] = {}
        server.gui.configure_theme(show_share_button=False, show_logo=False, dark_mode=True)
        server.scene.set_up_direction("+z")
        self._place_visitors(scene)
        self._controls()
        self.draw()

    @property
    def index(self) -> int:
        """The instant that is shown."""
        return min(round(self.slider.value), len(self.instants) - 1)

    def draw(self, *, background_only: bool = False) -> None:
        """Draw what the controls ask for; calls that come while it draws are done in one."""
        if not background_only:
            self._stale.set()
        self._wanted.set()
        while self._wanted.is_set() and self._drawing.acquire(blocking=False):
            try:
                self._wanted.clear()
                with torch.no_grad():
                    if self._stale.is_set():
                        self._stale.clear()  # before the controls are read: what changes from here on is drawn again
                        self._draw(self.index)
                    self._draw_background(self.instants[self.index])
            finally:
                self._drawing.release()

    def play(self, stop: threading.Event) -> None:
        """Go on to the next instant while the box is ticked, until `stop`."""
        while not stop.wait(1 / max(0.5, float(self.speed.value))):
            if self.playing.value:
                self.slider.value = (self.index + 1) % len(self.instants)

    def roll_out(self, task: str, *, seed: int, num_steps: int | None = None) -> str:
        """Let the agent act from the last recorded instant and show each chunk as it comes; returns how it went."""
        if not self._rolling.acquire(blocking=False):
            return "it is rolling already"
        assert self.rollout is not None  # there is no button without it
        start, instants = time.monotonic(), list(self.recorded)
        while len(instants) > 1 and not instants[-1].observed:
            instants.pop()  # the agent's future takes the place of one that was stored
        try:
            for chunk in self.rollout(task, num_steps=num_steps or self.config.num_steps, seed=seed):
                instants = instants_of(chunk, past=instants)
                self._extend(instants)
        except Scene4DError as error:
            return f"stopped: {error.line()}"
        finally:
            self._rolling.release()
        count = sum(not i.observed for i in instants)
        return f"{count} predicted instants in {time.monotonic() - start:.1f} s"

    def roll_out_and_report(self, task: str, label: Any) -> None:
        """`roll_out` at the button's seed, with its progress in `label`."""
        label.content = "the agent looks, acts, and the model predicts ..."
        try:
            label.content = self.roll_out(task, seed=int(self.seed.value))
        except Exception as error:  # or the page would show for ever that the agent acts
            label.content = f"stopped by an internal error ({type(error).__name__}); the terminal has more"
            raise

    def _extend(self, instants: list[Instant]) -> None:
        self.instants = instants
        self.slider.max = max(1, len(instants) - 1)
        self.slider.value = len(instants) - 1
        self.draw()

    def _place_visitors(self, scene: Scene4D) -> None:
        """New visitors begin behind the first camera; without one, above and aside of everything."""
        centre, radius = robust_bounds(scene.at(float(scene.times[0])))
        place = centre + radius * torch.tensor([1.2, -1.2, 1.0])
        first = self.server.initial_camera
        if self.cameras:
            view = next(iter(frusta_of(self.cameras, index=0).values()))
            place = torch.from_numpy(view.position)
            ahead = matrix_from_quat(torch.from_numpy(view.wxyz))[:, 2]
            distance = ((centre - place) @ ahead).clamp_min(0.1)
            centre, place = place + ahead * distance, place - 0.3 * ahead * distance
            first.fov = view.fov
        first.position, first.look_at = tuple(place.tolist()), tuple(centre.tolist())

    def _controls(self) -> None:
        gui, last = self.server.gui, len(self.instants) - 1
        self.status = gui.add_markdown("")
        self.slider = gui.add_slider("instant", min=0, max=max(1, last), step=1, initial_value=0)
        self.playing = gui.add_checkbox("play", False)
        self.speed = gui.add_slider("instants a second", min=1, max=60, step=1, initial_value=round(self.config.fps))
        self.colours = gui.add_dropdown("colours", ("recorded", "uncertainty"), initial_value="recorded")
        self.flow = gui.add_checkbox("flow arrows", False)
        self.stretch = gui.add_slider("arrow length", min=1, max=20, step=1, initial_value=3)
        self.ours = gui.add_checkbox("our rasterizer", False, hint="the picture that the models see, behind the scene")
        for control in (self.slider, self.colours, self.flow, self.stretch, self.ours):
            control.on_update(lambda _: self.draw())
        if self.cameras:
            with gui.add_folder("cameras"):
                self.shown = gui.add_checkbox("show", True)
                self.camera = gui.add_dropdown("camera", tuple(self.cameras), initial_value=next(iter(self.cameras)))
                jump = gui.add_button("look through it")
            self.shown.on_update(lambda _: self.draw())
            jump.on_click(lambda event: event.client is not None and self.jump(event.client, self.camera.value))
        if self.rollout is not None:
            with gui.add_folder("agent"):
                task = gui.add_text("task", self.config.task)
                self.seed = gui.add_number("seed", self.config.seed, min=0, max=1 << 30, step=1)
                button = gui.add_button("roll out")
                label = gui.add_markdown("")

            button.on_click(lambda _: self.roll_out_and_report(task.value, label))
        self.server.on_client_connect(self._welcome)

    def _welcome(self, client: Any) -> None:
        client.camera.on_update(lambda _: self.ours.value and self.draw(background_only=True))

    def jump(self, client: Any, name: str) -> None:
        """Put a visitor where the camera `name` was at this instant."""
        view = frusta_of({name: self.cameras[name]}, index=self.index)[name]
        with client.atomic():
            client.camera.wxyz, client.camera.position = view.wxyz, view.position
            client.camera.fov = view.fov

    def _draw(self, index: int) -> None:
        instant = self.instants[index]
        self.status.content = self._status(instant, index)
        unsure = self.colours.value == "uncertainty"
        rgbs = uncertainty_colours(uncertainty_of(instant)) if unsure else None
        self._draw_splats(splats_of(instant.gaussians(), rgbs=rgbs, most=self.config.most_splats))
        self._draw_flow(index)
        self._draw_cameras(index, observed=instant.observed)

    def _status(self, instant: Instant, index: int) -> str:
        word = "observed" if instant.observed else "PREDICTED"
        observed = sum(i.observed for i in self.instants)
        counts = f"{observed} observed, {len(self.instants) - observed} predicted"
        return f"**{word}** at {instant.time:.3f} s, number {index} of {len(self.instants) - 1} ({counts})"

    def _draw_splats(self, splats: Any) -> None:
        widths = np.sqrt(np.trace(splats.covariances, axis1=1, axis2=2))
        shrink = np.minimum(1.0, WIDEST / np.maximum(widths, 1e-9))[:, None, None] ** 2
        values = {
            "centers": splats.centers * CENTIMETRES,
            "covariances": splats.covariances * shrink * CENTIMETRES**2,
            "rgbs": splats.rgbs,
            "opacities": splats.opacities,
        }
        if hasattr(self, "splats"):
            self.splats.set_gaussians(**values)
        else:
            self.splats = self.server.scene.add_gaussian_splats("/splats", **values, scale=1 / CENTIMETRES)
        self.splats.visible = not self.ours.value

    def _draw_flow(self, index: int) -> None:
        points, rgbs = np.zeros((0, 2, 3), np.float32), np.zeros((0, 3), np.float32)
        if self.flow.value and index + 1 < len(self.instants):
            now, then = self.instants[index], self.instants[index + 1]
            arrows = arrows_between(now, then, stretch=float(self.stretch.value))
            points, rgbs = np.stack([arrows.starts, arrows.ends], 1), arrows.rgbs
        if len(points) == 0:
            self.server.scene.remove_by_name("/flow")
            return
        colours = (rgbs * 255).astype(np.uint8)
        self.server.scene.add_arrows("/flow", points, colours, shaft_radius=0.0015, head_radius=0.004, head_length=0.01)

    def _draw_cameras(self, index: int, *, observed: bool) -> None:
        if not self.cameras:
            return
        colour = OBSERVED if observed else PREDICTED
        for name, view in frusta_of(self.cameras, index=index).items():
            if name not in self._frusta:
                self._frusta[name] = handle = self.server.scene.add_camera_frustum(
                    f"/cameras/{name}", view.fov, view.aspect, scale=0.08, thickness=0.002
                )
                handle.on_click(lambda event, name=name: self.jump(event.client, name))
            handle = self._frusta[name]
            handle.wxyz, handle.position, handle.color = view.wxyz, view.position, colour
            handle.visible = bool(self.shown.value)

    def _draw_background(self, instant: Instant) -> None:
        """Each visitor's own view by our rasterizer, small enough to follow the mouse."""
        gaussians = instant.gaussians() if self.ours.value else None
        for client in self.server.get_clients().values():
            if gaussians is None:
                client.scene.set_background_image(None)
                continue
            visitor = client.camera
            if not visitor.image_height:
                continue  # its size is not known yet
            height = max(8, min(BACKGROUND_SIDE, visitor.image_height))
            width = min(4 * BACKGROUND_SIDE, max(8, round(height * visitor.image_width / visitor.image_height)))
            world_from_cam = torch.eye(4)
            world_from_cam[:3, :3] = matrix_from_quat(torch.from_numpy(visitor.wxyz).float())
            world_from_cam[:3, 3] = torch.from_numpy(visitor.position).float()
            K = intrinsics_from_fov(float(visitor.fov), width=width, height=height)
            camera = Cameras(viewmats=invert_rigid(world_from_cam), Ks=K, width=width, height=height)
            client.scene.set_background_image(colour_picture(render(gaussians, camera).rgb), format="jpeg")
