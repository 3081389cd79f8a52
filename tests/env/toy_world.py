"""A world whose law is known exactly, behind the WorldModel protocol: a hand that flies, a block that it pushes."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from scene4d.geometry.camera import intrinsics_from_fov, look_at
from scene4d.robot.spec import RobotSpec
from scene4d.scene import Motion, Scene4D
from scene4d.types import Cameras, Gaussians, Task
from scene4d.world.carry import AnchoredGaussians, AnchorMotion, later_times, scene_of_motion
from scene4d.world.contract import Prediction, State, WorldModelSpec
from scene4d.world.observation import Observation

STEP_M = 0.02
"""Metres that the hand goes with an action of 1."""
REACH = 0.07
"""Metres between the middles of hand and block at which they touch."""
HAND, BLOCK, FLOOR = 0, 1, 2
SPEC = [
    *({"name": n, "unit": f"{STEP_M} m"} for n in ("dx", "dy", "dz")),
    {"name": "gripper", "unit": "effort, -1 opens, 1 closes"},
]
PROPRIO = [{"name": n} for n in ("hand_x", "hand_y", "hand_z", "gripper_opening")]


def cloud(middle, colour, *, size=0.03, num=64, seed=0):
    """A coloured lump of Gaussians."""
    generator = torch.Generator().manual_seed(seed)
    sh = (torch.tensor(colour) - 0.5) / 0.2820948
    return Gaussians(
        means=torch.tensor(middle) + size * (2 * torch.rand(num, 3, generator=generator) - 1),
        quats=torch.tensor([1.0, 0, 0, 0]).repeat(num, 1),
        scales=torch.full((num, 3), 0.008),
        opacities=torch.full((num,), 0.9),
        sh=sh.expand(num, 1, 3).clone(),
    )


def toy_start(
    *, hand=(0.0, 0.0, 0.05), block=(0.2, 0.0, 0.05), num_floor=150, num_past=3, time=0.0, **robot
) -> Observation:
    """Hand (red), block (blue) and floor (grey), each on its own anchor; `robot`: facts of the recording to change."""
    parts = [cloud(hand, (0.8, 0.1, 0.1)), cloud(block, (0.1, 0.1, 0.8), seed=1)]
    floor = cloud((0.2, 0.0, -0.02), (0.5, 0.5, 0.5), size=0.5, num=num_floor, seed=2)
    floor.means[:, 2] = -0.02
    parts.append(floor)
    join = lambda name: torch.cat([getattr(p, name) for p in parts])
    gaussians = Gaussians(**{n: join(n) for n in ("means", "quats", "scales", "opacities", "sh")})
    body = torch.cat([torch.full((p.num_gaussians,), i) for i, p in enumerate(parts)])
    still = torch.tensor([1.0, 0, 0, 0, 0, 0, 0])
    scene = Scene4D(
        base=gaussians,
        motion=Motion(
            anchors=torch.tensor([hand, block, (0.2, 0.0, -0.02)]),
            world_from_rest=still.expand(1, 3, 7),
            skin_index=body[:, None],
            skin_weights=torch.ones(len(body), 1),
        ),
        alive=torch.tensor([-1.0, 1e6]).double().expand(len(body), 2),
        times=torch.tensor([time], dtype=torch.float64),
        observed=torch.tensor([True]),
    )
    info = {"action_spec": SPEC, "proprio_spec": PROPRIO, **robot}
    width = info.pop("num_actions", None) or len(info["action_spec"])
    return Observation(
        actions=torch.zeros(num_past, width),
        proprio=torch.tensor([[*hand, 0.08]]).expand(num_past + 1, 4),
        robot=RobotSpec.from_info(info, num_actions=width),
        scene=scene,
        cameras=cameras(),
        task=Task("push"),
    )


def toy_state(**options) -> ToyState:
    """The state of `toy_start`."""
    return ToyWorld().observe(toy_start(**options))


@dataclass(frozen=True)
class ToyState(State):
    """Hand, block and floor on their anchors."""

    anchored: AnchoredGaussians


@dataclass(frozen=True, kw_only=True)
class ToyPrediction(Prediction):
    """Shifts of the three anchors."""

    motion: AnchorMotion


def cameras(size: int = 24) -> dict[str, Cameras]:
    """Two cameras [] that see the table."""
    K = intrinsics_from_fov(0.9, width=size, height=size)
    centres = {"left": (0.2, -0.9, 0.7), "right": (0.2, 0.9, 0.7)}
    make = lambda eye: look_at(torch.tensor(eye), torch.tensor((0.2, 0.0, 0.0)))
    return {n: Cameras(viewmats=make(eye), Ks=K, width=size, height=size) for n, eye in centres.items()}


@dataclass
class ToyWorld:
    """Implements `WorldModel`: the hand moves by its action, the block is pushed along x while the hand touches it.

    success rises with the block's x past `goal_x`; `std` is the standard deviation of every step, which adds up;
    `breaks_at`: the x of the hand from which the model answers NaN.
    """

    goal_x: float = 0.4
    std: float = 0.001
    breaks_at: float = 1e9
    horizon: int = 8
    heads: tuple[str, ...] = ("success", "proprio")
    num_calls: int = 0

    @property
    def spec(self):
        return WorldModelSpec(self.horizon, 0.025, (RobotSpec.from_info({}),))

    def observe(self, observation, *, state=None):
        scene = observation.scene
        now, motion = scene.at(float(scene.times[-1])), scene.motion
        return ToyState(
            time=scene.times[-1],
            proprio=observation.proprio[-1],
            robot=self.spec.robot_of(observation),
            anchored=AnchoredGaussians(now, motion.anchors, motion.skin_index, motion.skin_weights),
        )

    def anchored(self, state):
        return state.anchored

    def anchor_motion(self, prediction):
        return prediction.motion

    def scene(self, state, prediction):
        times = later_times(state.time, num_steps=prediction.num_steps, step_seconds=state.robot.step_seconds)
        return scene_of_motion(state.anchored, prediction.motion, times=times)

    def predict(self, state, *, actions, seeds=(0,)):
        self.num_calls += 1
        lead, num_steps = actions.shape[:-2], actions.shape[-2]
        assert lead == tuple(state.batch_shape) and len(lead) <= 1 and num_steps <= self.horizon
        anchors, proprio = state.anchored.anchors, state.proprio
        hand, block = anchors[..., HAND, :].clone(), anchors[..., BLOCK, :].clone()
        shifts, grips = [], []
        for i in range(num_steps):
            hand = hand + STEP_M * actions[..., i, :3]
            beside = (hand - block)[..., 1:].norm(dim=-1) < REACH
            push = (hand[..., 0] + REACH - block[..., 0]).clamp_min(0) * (beside & (hand[..., 0] < block[..., 0]))
            block = block + torch.nn.functional.pad(push[..., None], (0, 2))
            places = torch.stack([hand, block, anchors[..., FLOOR, :]], -2)
            shifts.append(places - anchors)
            grips.append(torch.cat([hand, proprio[..., 3:]], -1))
        shift = torch.stack(shifts, -3)  # [*b h 3 3]
        poses = torch.cat([anchors.new_tensor([1.0, 0, 0, 0]).expand(*shift.shape[:-1], 4), shift], -1)
        poses = torch.where((shift[..., :1, :1] + anchors[..., None, :1, :1]) > self.breaks_at, torch.nan, poses)
        number = torch.arange(1.0, num_steps + 1)[:, None, None]
        log_var = (self.std**2 * number).log().expand(*lead, num_steps, 3, 6)
        block_x = shift[..., BLOCK, 0] + anchors[..., None, BLOCK, 0]
        found = {
            "success": ((block_x - self.goal_x) / 0.02).sigmoid(),
            "proprio": torch.stack(grips, -2),
            "reward": -(block_x - self.goal_x).abs(),
            "done": (block_x > self.goal_x).float(),
        }
        return ToyPrediction(
            actions=actions,
            motion=AnchorMotion(poses, log_var),
            **{name: found[name] for name in self.heads},
        )

    def advance(self, state, prediction, *, num_steps):
        pose = prediction.motion.world_from_now[..., num_steps - 1, :, :]
        anchored = state.anchored
        return state.replace(
            time=state.time + state.robot.step_seconds * num_steps,
            proprio=prediction.proprio[..., num_steps - 1, :],
            anchored=anchored.replace(gaussians=anchored.moved(pose), anchors=anchored.anchors + pose[..., 4:]),
        )
