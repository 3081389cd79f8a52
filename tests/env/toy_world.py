"""A world whose law is known exactly, behind the WorldModel protocol: a hand that flies, a block that it pushes."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from scene4d.geometry.camera import intrinsics_from_fov, look_at
from scene4d.scene import Motion
from scene4d.types import Cameras, Gaussians
from scene4d.world.contract import Forecast, State
from scene4d.world.latent import Latent

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


def toy_state(*, hand=(0.0, 0.0, 0.05), block=(0.2, 0.0, 0.05), num_floor=150, num_past=3, time=0.0) -> State:
    """Hand (red), block (blue) and floor (grey), each on its own anchor."""
    parts = [cloud(hand, (0.8, 0.1, 0.1)), cloud(block, (0.1, 0.1, 0.8), seed=1)]
    floor = cloud((0.2, 0.0, -0.02), (0.5, 0.5, 0.5), size=0.5, num=num_floor, seed=2)
    floor.means[:, 2] = -0.02
    parts.append(floor)
    join = lambda name: torch.cat([getattr(p, name) for p in parts])
    memory = Gaussians(**{n: join(n) for n in ("means", "quats", "scales", "opacities", "sh")})
    body = torch.cat([torch.full((p.num_gaussians,), i) for i, p in enumerate(parts)])
    anchors = torch.tensor([hand, block, (0.2, 0.0, -0.02)])
    still = torch.tensor([1.0, 0, 0, 0, 0, 0, 0])
    one = torch.ones(len(body), 1)
    tokens = Latent(
        tokens=torch.zeros(1, 3, 2),
        anchors=anchors[None],
        rotations=still[:4].expand(1, 3, 4),
        present=torch.ones(1, 3, dtype=torch.bool),
        ids=torch.arange(3)[None],
    )
    return State(
        memory=memory,
        skin=Motion(anchors=anchors, world_from_rest=still.expand(3, 3, 7), skin_index=body[:, None], skin_weights=one),
        past=tokens,
        past_actions=torch.zeros(num_past, 4),
        proprio=torch.tensor([*hand, 0.08]),
        time=torch.tensor(time, dtype=torch.float64),
        context={"task": "push", "action_spec": SPEC, "proprio_spec": PROPRIO, "cameras": cameras()},
    )


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

    def predict(self, state, *, actions=None, future=None, steps=1, seeds=(0,)):
        assert actions is not None and future is None, "it knows a law, not what anyone wants"
        self.num_calls += 1
        lead, num_steps = actions.shape[:-2], actions.shape[-2]
        assert lead == tuple(state.batch_shape) and len(lead) <= 1 and num_steps <= self.horizon
        anchors, proprio = state.skin.anchors, state.proprio
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
        spread = lambda x: x.unsqueeze(len(lead)).expand(*lead, num_steps, *x.shape[len(lead) :])
        latest = state.past.map(lambda x: x.select(len(lead), -1))
        return Forecast(
            latent=latest.map(spread).replace(anchors=anchors[..., None, :, :] + shift),
            world_from_now=poses,
            log_var=log_var,
            actions=actions,
            heads={name: found[name] for name in self.heads},
        )

    def advance(self, state, forecast, *, num_steps):
        shift = forecast.world_from_now[..., num_steps - 1, :, 4:]
        body = state.skin.skin_index.expand(*state.skin.skin_index.shape[:-1], 3)
        moved = state.memory.means + shift.gather(-2, body) * state.skin.skin_weights
        return state.replace(
            memory=state.memory.replace(means=moved),
            skin=state.skin.replace(anchors=state.skin.anchors + shift),
            past_actions=torch.cat([state.past_actions, forecast.actions[..., :num_steps, :]], -2)[..., num_steps:, :],
            proprio=forecast.heads["proprio"][..., num_steps - 1, :],
            time=state.time + 0.025 * num_steps,
        )
