"""What all simulators have in common: a MuJoCo world in closed loop, seen by the rig, with its exact motion."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
import torch
from torch import Tensor

from scene4d.errors import ConfigError, EnvError
from scene4d.geometry.camera import CV_FROM_GL
from scene4d.geometry.rotation import normalize_quat
from scene4d.sim import rig, rig_cameras
from scene4d.sim.rig import RigCamera
from scene4d.sim.viewpoints import unseen_cameras
from scene4d.types import Cameras, Frames

if TYPE_CHECKING:
    import mujoco

    from scene4d.sim.drawing.offscreen import OffscreenRenderer


class Simulator(ABC):
    """A task in closed loop: reset, observe, step. A seed fixes everything.

    Args:
        task: its name. seed: of what is drawn at random in it. size: (width, height) px of the images.
        cameras: any of left, right, front, top, gripper (the rig), corner (spare), unseen_0 .. unseen_7 and beyond (see
            `unseen_cameras`), or free ones by names of their own; only these are drawn.
        segments: whether frames carry extras["segments"] (costs a second drawing pass), or the cameras whose do.
        turned_deg: how far the fixed cameras are turned about what they look at.
    Raises:
        ConfigError: no such task or camera.
        EnvError: the simulator is not installed.
    """

    source: ClassVar[str]
    """Names the simulator in the recordings made with it."""
    robot: str
    action_spec: tuple[Mapping[str, str], ...]
    proprio_spec: tuple[Mapping[str, str], ...]
    fps: ClassVar[float] = 40.0
    """Frames a second, the same in all of them, so that their episodes fit together."""
    seed: int
    num_frames: int
    """Since the reset."""
    viewpoints: dict[str, dict[str, Any]]
    """The free cameras that are drawn, JSON-ready; {} where they are named ones."""

    def __init__(
        self,
        task: str,
        *,
        seed: int = 0,
        size: tuple[int, int] = (64, 64),
        cameras: Sequence[str] | Mapping[str, RigCamera] = ("left", "right", "front", "top"),
        segments: bool | Sequence[str] = True,
        turned_deg: float = 0.0,
    ):
        self.task, self.size, self.segments, self.turned_deg = task, (size[0], size[1]), segments, turned_deg
        self.look_from(cameras)
        self._renderer: OffscreenRenderer | None = None
        self.reset(seed)

    def look_from(self, cameras: Sequence[str] | Mapping[str, RigCamera]) -> None:
        """Draw these cameras from now on, named ones or free ones.

        Raises:
            ConfigError: no camera has such a name.
        """
        known = {**rig.FIXED_CAMERAS, **rig.SPARE_CAMERAS, **unseen_cameras()}
        self.viewpoints = {}
        if isinstance(cameras, Mapping):
            self._free_cameras = dict(cameras)
            self.viewpoints = {name: asdict(camera) for name, camera in cameras.items()}
        else:
            unknown = [name for name in cameras if name not in known and name not in rig.MODEL_CAMERAS]
            if unknown:
                expected = [*rig.CAMERAS, *rig.SPARE_CAMERAS, *unseen_cameras()]
                raise ConfigError("no such camera", field="cameras", found=unknown, expected=expected)
            self._free_cameras = {name: known[name] for name in cameras if name in known}
        self.cameras = tuple(cameras)

    @abstractmethod
    def reset(self, seed: int | None = None) -> None:
        """Back to the first frame of `seed` (by default the present one)."""

    @abstractmethod
    def proprio(self) -> Tensor:
        """The robot's state [p], as `proprio_spec` names it."""

    @abstractmethod
    def expert_action(self) -> Tensor:
        """What the task's scripted expert would do now, [a] in [-1, 1]. Ask once a frame: some experts keep a state."""

    @abstractmethod
    def step(self, action: Tensor) -> tuple[float, bool]:
        """Hold `action` [a] (clipped to [-1, 1]) for one frame.

        Returns:
            The reward at the end of the frame, and whether the task counts as done.
        Raises:
            EnvError: the action has the wrong shape or is not finite, or the episode is over (250 frames).
        """

    @property
    @abstractmethod
    def goal(self) -> Tensor | None:
        """Where the object should come to be, [3] m; None where the scene or the task's words show what to do."""

    @property
    @abstractmethod
    def object_segments(self) -> list[int]:
        """The segments that can move and are no part of the robot."""

    @abstractmethod
    def _world(self) -> tuple[mujoco.MjModel, mujoco.MjData]:
        """The model and its present state."""

    @property
    def text(self) -> str:
        """What a recording of the task is called, its task in words where it has some."""
        return self.task

    def notes(self) -> dict[str, Any]:
        """What else there is to know of an episode, JSON-ready."""
        return {}

    @property
    def segment_names(self) -> list[str]:
        """The body that leads each segment; segment 0 is what never moves."""
        model, _ = self._world()
        return [model.body(int(body)).name for body in self._body_of_segment]

    @property
    def time(self) -> float:
        """Seconds since the reset."""
        return self.num_frames / self.fps

    def observe(self) -> dict[str, Frames]:
        """What each camera sees now: Frames with no batch axes, extras["segments"] [h w 1] int64 (-1 = sky)."""
        return {name: self._frames(name) for name in self.cameras}

    def segment_poses(self) -> Tensor:
        """World-from-segment [g 7] now, exact."""
        _, data = self._world()
        quats, places = (torch.from_numpy(x[self._body_of_segment]) for x in (data.xquat, data.xpos))
        return torch.cat([normalize_quat(quats), places], -1).float()

    def close(self) -> None:
        """Give the OpenGL context back; observe makes a new one when asked again."""
        if self._renderer is not None:
            self._renderer.close()
        self._renderer = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _number_segments(self, leaders: np.ndarray) -> None:
        """Segments in the order of the bodies that lead them: what `leaders` [nbody] names alike moves as one."""
        model, _ = self._world()
        self._body_of_segment = np.unique(np.append(0, leaders[model.geom_bodyid]))
        segment_of_body = np.full(model.nbody, -1, np.int64)
        segment_of_body[self._body_of_segment] = np.arange(len(self._body_of_segment))
        self._segment_of_geom = segment_of_body[leaders[model.geom_bodyid]]

    def _clipped(self, action: Tensor) -> np.ndarray:
        """The numbers of an action; EnvError where it is none."""
        values = torch.as_tensor(action, dtype=torch.float32).detach().cpu().numpy()
        if values.shape != (len(self.action_spec),) or not np.isfinite(values).all():
            expected = f"{len(self.action_spec)} finite numbers"
            raise EnvError("is no action", field="action", found=values.tolist(), expected=expected)
        return np.clip(values, -1, 1)

    def _frames(self, name: str) -> Frames:
        import mujoco

        from scene4d.sim.drawing.offscreen import OffscreenRenderer

        model, data = self._world()
        if self._renderer is None:
            self._renderer = OffscreenRenderer(model, size=self.size)
        camera, spec = mujoco.MjvCamera(), self._free_cameras.get(name)
        if spec is not None:
            viewmat, fov_y_deg = rig_cameras.viewmat_of(spec, turned_deg=self.turned_deg), spec.fov_y_deg
            model.vis.global_.fovy = fov_y_deg  # that of every free camera
            camera.lookat[:], camera.distance = spec.lookat, spec.distance
            camera.azimuth, camera.elevation = spec.azimuth_deg + self.turned_deg, spec.elevation_deg
        else:
            camera.type = mujoco.mjtCamera.mjCAMERA_FIXED
            camera.fixedcamid = model.camera(rig.MODEL_CAMERAS[name]).id
            viewmat = _viewmat_of_model_camera(data, camera.fixedcamid)
            fov_y_deg = float(model.cam_fovy[camera.fixedcamid])
        K = rig_cameras.intrinsics(size=self.size, fov_y_deg=fov_y_deg)
        sees = _inside(data.geom_xpos, model.geom_rbound, viewmat=viewmat.numpy(), K=K.numpy(), size=self.size)
        labelled = self.segments if isinstance(self.segments, bool) else name in self.segments
        shot = self._renderer.draw(model, data, camera=camera, sees=sees, geoms=labelled)
        extras = {}
        if shot.geoms is not None:
            segments = np.append(self._segment_of_geom, -1)  # index -1 is the last entry: background stays -1
            extras["segments"] = torch.from_numpy(segments[shot.geoms])[..., None]
        return Frames(
            rgb=torch.from_numpy(shot.rgb).float() / 255,
            depth=torch.from_numpy(shot.depth),
            alpha=None,
            cameras=Cameras(viewmats=viewmat.float(), Ks=K, width=self.size[0], height=self.size[1]),
            extras=extras,
        )


def _viewmat_of_model_camera(data, index: int) -> Tensor:
    rotation = torch.from_numpy(data.cam_xmat[index].reshape(3, 3) * np.array(CV_FROM_GL))
    viewmat = torch.eye(4, dtype=torch.float64)
    viewmat[:3, :3] = rotation.T
    viewmat[:3, 3] = -rotation.T @ torch.from_numpy(data.cam_xpos[index].copy())
    return viewmat


def _inside(
    centers: np.ndarray, radii: np.ndarray, *, viewmat: np.ndarray, K: np.ndarray, size: tuple[int, int]
) -> np.ndarray:
    """[ngeom] False where a bounding sphere is certainly outside the image's pyramid; radius 0 = a plane: True."""
    points = centers @ viewmat[:3, :3].T + viewmat[:3, 3]
    inside = points[:, 2] > -radii
    for axis in (0, 1):
        slope = size[axis] / 2 / K[axis, axis]
        gap = (np.abs(points[:, axis]) - slope * points[:, 2]) / np.hypot(1, slope)  # to the pyramid's nearer side
        inside &= gap < radii + 0.01
    return inside | (radii == 0)
