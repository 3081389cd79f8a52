"""Meta-World tasks seen by the fixed rig: RGB-D, exact poses and motion, scripted experts, closed-loop control."""

from __future__ import annotations

import warnings
import zlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from scene4d.disk_errors import refuse_shortage
from scene4d.errors import ConfigError, EnvError
from scene4d.geometry.camera import CV_FROM_GL
from scene4d.geometry.rotation import normalize_quat
from scene4d.sim import rig, rig_cameras
from scene4d.types import Cameras, Episode, Frames

FRAME_SKIP = 2
ACTION_SPEC = (
    *({"name": name, "unit": "0.02 m", "frame": "world"} for name in ("dx", "dy", "dz")),
    {"name": "gripper", "unit": "effort, -1 opens, 1 closes", "frame": "gripper"},
)
PROPRIO_SPEC = (
    *({"name": name, "unit": "m", "frame": "world"} for name in ("hand_x", "hand_y", "hand_z")),
    {"name": "gripper_opening", "unit": "m", "frame": "gripper"},
)


class MetaWorldSim:
    """One Meta-World task in closed loop: reset, observe, step.

    A seed fixes everything: every reset builds the environment afresh, so an episode is bit-equal whatever ran before.
    Actions are in [-1, 1]: the hand's target moves by 0.02 m times the action a frame; the last one drives the gripper.

    Args:
        task: a Meta-World name such as "door-open-v3".
        seed: of the task's object and goal positions.
        size: (width, height) px of the images.
        cameras: any of left, right, front, top, gripper (the rig) and corner (spare); only these are drawn.
        segments: whether frames carry extras["segments"] (costs a second drawing pass).
        turned_deg: how far the fixed cameras are turned about what they look at.
    Raises:
        ConfigError: no such task or camera.
        EnvError: metaworld is not installed.
    """

    action_spec = ACTION_SPEC
    proprio_spec = PROPRIO_SPEC
    fps = 40.0  # two simulator steps of 0.0125 s a frame

    def __init__(
        self,
        task: str,
        *,
        seed: int = 0,
        size: tuple[int, int] = (64, 64),
        cameras: Sequence[str] = ("left", "right", "front", "top"),
        segments: bool = True,
        turned_deg: float = 0.0,
    ):
        self._make_env, self._make_policy = _task_makers(task)
        known = [*rig.CAMERAS, *rig.SPARE_CAMERAS]
        unknown = [name for name in cameras if name not in known]
        if unknown:
            raise ConfigError("no such camera", field="cameras", found=unknown, expected=known)
        self.task, self.size, self.cameras, self.segments = task, (size[0], size[1]), tuple(cameras), segments
        self.turned_deg = turned_deg
        self._renderer = None
        self.reset(seed)

    def reset(self, seed: int | None = None) -> None:
        """Back to the first frame of `seed` (by default the present one)."""
        self.seed = self.seed if seed is None else int(seed)
        self._env = self._make_env(seed=self.seed)
        self._obs, _ = self._env.reset()
        self._policy = self._make_policy()
        self._segment_of_geom, self._body_of_segment = _segments(self._env.model)
        self.num_frames = 0

    @property
    def segment_names(self) -> list[str]:
        """The body that leads each segment; segment 0 is what never moves."""
        return [self._env.model.body(int(body)).name for body in self._body_of_segment]

    @property
    def object_segments(self) -> list[int]:
        """The segments that can move and are no part of the robot."""
        model = self._env.model
        robot = model.body_rootid[model.body("hand").id]
        roots = model.body_rootid[self._body_of_segment]
        return [number for number, root in enumerate(roots) if number > 0 and root != robot]

    @property
    def time(self) -> float:
        """Seconds since the reset."""
        return self.num_frames / self.fps

    def observe(self) -> dict[str, Frames]:
        """What each camera sees now: Frames with no batch axes, extras["segments"] [h w 1] int64 (-1 = sky)."""
        return {name: self._frames(name) for name in self.cameras}

    @property
    def goal(self) -> Tensor | None:
        """Where the object (in reach, the hand) should come to be, [3] m; None where the scene shows what to do."""
        if not self.task.startswith(rig.HIDDEN_GOALS):
            return None
        return torch.as_tensor(np.asarray(self._env._target_pos), dtype=torch.float32)

    def proprio(self) -> Tensor:
        """Hand position and gripper opening [4], m."""
        data = self._env.data
        opening = np.linalg.norm(data.body("rightclaw").xpos - data.body("leftclaw").xpos)
        return torch.tensor([*data.body("hand").xpos, opening], dtype=torch.float32)

    def segment_poses(self) -> Tensor:
        """World-from-segment [g 7] now, exact."""
        data = self._env.data
        quats, places = (torch.from_numpy(x[self._body_of_segment]) for x in (data.xquat, data.xpos))
        return torch.cat([normalize_quat(quats), places], -1).float()

    def expert_action(self) -> Tensor:
        """What the task's scripted expert would do now, [4] in [-1, 1]. Ask once a frame: some experts keep a state."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the experts ask for more than full speed and say so at every step
            action = self._policy.get_action(self._obs.copy())  # they write into what they are given
        return torch.from_numpy(np.clip(np.asarray(action, np.float32), -1, 1))

    def step(self, action: Tensor) -> tuple[float, bool]:
        """Hold `action` [4] (clipped to [-1, 1]) for one frame, which is two simulator steps.

        Returns:
            The reward at the end of the frame, and whether the task counts as done.
        Raises:
            EnvError: the action has the wrong shape or is not finite, or the episode is over (250 frames).
        """
        values = torch.as_tensor(action, dtype=torch.float32).detach().cpu().numpy()
        if values.shape != (len(ACTION_SPEC),) or not np.isfinite(values).all():
            expected = f"{len(ACTION_SPEC)} finite numbers"
            raise EnvError("is no action", field="action", found=values.tolist(), expected=expected)
        if self._env.curr_path_length + FRAME_SKIP > self._env.max_path_length:
            raise EnvError("the episode is over", field="step", found=f"{self.num_frames} frames", fix="call reset")
        values, success, reward = np.clip(values, -1, 1), False, 0.0
        for _ in range(FRAME_SKIP):
            self._obs, reward, _, _, info = self._env.step(values)
            success |= bool(info["success"])
        self.num_frames += 1
        return float(reward), success

    def close(self) -> None:
        """Give the OpenGL context back; observe makes a new one when asked again."""
        if self._renderer is not None:
            self._renderer.close()
        self._renderer = None

    def __enter__(self) -> MetaWorldSim:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _frames(self, name: str) -> Frames:
        import mujoco

        from scene4d.sim.offscreen import OffscreenRenderer

        model, data = self._env.model, self._env.data
        if self._renderer is None:
            self._renderer = OffscreenRenderer(model, size=self.size)
        camera, fov_y_deg = mujoco.MjvCamera(), rig.FOV_Y_DEG
        spec = rig.FIXED_CAMERAS.get(name) or rig.SPARE_CAMERAS.get(name)
        if spec is not None:
            viewmat = rig_cameras.viewmat(name, turned_deg=self.turned_deg)
            camera.lookat[:], camera.distance = spec.lookat, spec.distance
            camera.azimuth, camera.elevation = spec.azimuth_deg + self.turned_deg, spec.elevation_deg
        else:
            camera.type = mujoco.mjtCamera.mjCAMERA_FIXED
            camera.fixedcamid = model.camera(rig.MODEL_CAMERAS[name]).id
            viewmat = _viewmat_of_model_camera(data, camera.fixedcamid)
            fov_y_deg = float(model.cam_fovy[camera.fixedcamid])
        K = rig_cameras.intrinsics(size=self.size, fov_y_deg=fov_y_deg)
        sees = _inside(data.geom_xpos, model.geom_rbound, viewmat=viewmat.numpy(), K=K.numpy(), size=self.size)
        shot = self._renderer.draw(model, data, camera=camera, sees=sees, geoms=self.segments)
        extras = {}
        if self.segments:
            segments = np.append(self._segment_of_geom, -1)  # index -1 is the last entry: background stays -1
            extras["segments"] = torch.from_numpy(segments[shot.geoms])[..., None]
        return Frames(
            rgb=torch.from_numpy(shot.rgb).float() / 255,
            depth=torch.from_numpy(shot.depth),
            alpha=None,
            cameras=Cameras(viewmats=viewmat.float(), Ks=K, width=self.size[0], height=self.size[1]),
            extras=extras,
        )


def record_episode(
    task: str,
    *,
    seed: int,
    noise: float = 0.1,
    num_frames: int = 60,
    size: tuple[int, int] = (64, 64),
    cameras: Sequence[str] = ("left", "right", "front", "top"),
    sim: MetaWorldSim | None = None,
    progress: Callable[[int], None] | None = None,
) -> Episode:
    """The scripted expert with Gaussian noise of standard deviation `noise` on its actions.

    rewards[t] and success[t] are the outcome of actions[t]. `sim` of the same task, when given, is reset and used
    instead of a new one (its size and cameras then hold); `progress` is called with the number of frames made so far.

    Returns:
        Episode [t] with segment_poses [t g 7]; info: task, seed, noise, segments, specs, robot, source.
    """
    own = sim is None
    sim = MetaWorldSim(task, seed=seed, size=size, cameras=cameras) if sim is None else sim
    if sim.task != task:
        raise ConfigError("the simulator runs another task", field="sim", found=sim.task, expected=task)
    sim.reset(seed)
    # The task is part of the stream's seed: equal seeds of different tasks do not share their noise.
    generator = np.random.default_rng([seed, zlib.crc32(task.encode())])
    frames, rows = [], []
    try:
        for index in range(num_frames):
            frames.append(sim.observe())
            proprio, poses = sim.proprio(), sim.segment_poses()
            wish = sim.expert_action() + noise * torch.from_numpy(generator.standard_normal(len(ACTION_SPEC))).float()
            action = wish.clamp(-1, 1)
            reward, success = sim.step(action)
            rows.append((action, proprio, poses, torch.tensor(reward, dtype=torch.float32), torch.tensor(success)))
            if progress is not None:
                progress(index + 1)
    finally:
        if own:
            sim.close()
    actions, proprio, poses, rewards, success = (torch.stack(column) for column in zip(*rows, strict=True))
    return Episode(
        views={name: Frames.stack([frame[name] for frame in frames]) for name in sim.cameras},
        times=torch.arange(num_frames, dtype=torch.float64) / sim.fps,
        valid=torch.ones(num_frames, dtype=torch.bool),
        actions=actions,
        proprio=proprio,
        rewards=rewards,
        success=success,
        segment_poses=poses,
        info={
            "task": task,
            "seed": int(seed),
            "noise": float(noise),
            "robot": "sawyer",
            "source": "metaworld",
            "segments": sim.segment_names,
            "action_spec": [dict(row) for row in ACTION_SPEC],
            "proprio_spec": [dict(row) for row in PROPRIO_SPEC],
        },
    )


def _task_makers(task: str) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """The environment's and the expert's constructors."""
    try:
        from metaworld.env_dict import ALL_V3_ENVIRONMENTS_GOAL_OBSERVABLE as ENVIRONMENTS
        from metaworld.policies import ENV_POLICY_MAP
    except ImportError as error:
        refuse_shortage(error, file=None)
        raise EnvError("metaworld is not installed", field="metaworld", fix='pip install "scene4d[sim]"') from error
    if task not in ENV_POLICY_MAP:
        known = ", ".join(rig.TASKS) + " or another v3 task"
        raise ConfigError("no such task", field="task", found=task, expected=known)
    # The experts know where the goal is; nothing that is recorded shows it.
    return ENVIRONMENTS[f"{task}-goal-observable"], ENV_POLICY_MAP[task]


def _segments(model) -> tuple[np.ndarray, np.ndarray]:
    """Segment id of every geom, and each segment's leading body: bodies without a joint between them move as one."""
    bodies = np.unique(np.append(0, model.body_weldid[model.geom_bodyid]))
    segment_of_body = np.full(model.nbody, -1, np.int64)
    segment_of_body[bodies] = np.arange(len(bodies))
    return segment_of_body[model.body_weldid[model.geom_bodyid]], bodies


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
