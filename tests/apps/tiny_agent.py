"""A small head, a world model and pictures of boxes for tests of whatever lets the agent act."""

from __future__ import annotations

import copy
import dataclasses

import torch
from box_scene import cast_boxes

from scene4d.apps.compose.models import Models, make_models
from scene4d.geometry.camera import intrinsics_from_fov, look_at
from scene4d.models.gaussian_flow.networks.vae import VAEConfig
from scene4d.models.gaussian_flow.settings import DynamicsConfig
from scene4d.policy.encoders import ActionHeadConfig
from scene4d.robot.several_robots import robots_of_info
from scene4d.types import Cameras, Frames

TASKS = ["button-press-v3", "door-open-v3", "drawer-open-v3"]
SPEC = [
    {"name": n, "unit": u} for n, u in (("dx", "0.02 m"), ("dy", "0.02 m"), ("dz", "0.02 m"), ("gripper", "effort"))
]
PROPRIO = torch.tensor([0.0, 0.1, 0.2, 0.08])
SIDE = 24


def tiny_models() -> Models:
    """Untrained models whose head does not answer zeros."""
    size = {"width": 32, "hidden": 32, "heads": 2, "encoder_depth": 1, "decoder_depth": 1, "stem": (8, 12)}
    head = ActionHeadConfig(**size, view_size=16, goal_conditioned=True)
    info = {"tasks": TASKS, "policy_tasks": TASKS, "context": {"action_spec": SPEC}}
    made = make_models({"vae": VAEConfig(), "dynamics": DynamicsConfig()}, head, info=info)
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        for parameter in made.policy.decoder.parameters():
            torch.nn.init.normal_(parameter, std=0.2)
    for part in made.parts().values():
        part.eval().requires_grad_(False)
    return made


def with_info(models: Models, **info) -> Models:
    """The same models, had their weights held this too about what they learned from."""
    info = {**models.info, **info}
    world = copy.copy(models.world)
    world.robots = robots_of_info(info)
    return dataclasses.replace(models, world=world, info=info)


def box_views(step: int = 0, *, side: int = SIDE) -> dict[str, Frames]:
    """What two cameras see of boxes, from a little further round at every step; colours in 8 bits, as sensors give."""
    angle = torch.tensor(0.02 * step)
    turn = torch.stack([angle.cos(), angle.sin()])
    eyes = torch.tensor([[-0.8, -0.6, 0.7], [0.8, -0.6, 0.7]])
    eyes[:, :2] = torch.stack(
        [eyes[:, 0] * turn[0] - eyes[:, 1] * turn[1], eyes[:, 0] * turn[1] + eyes[:, 1] * turn[0]], -1
    )
    Ks = intrinsics_from_fov(0.8, width=side, height=side).expand(2, 3, 3)
    cameras = Cameras(viewmats=look_at(eyes, torch.zeros(2, 3)), Ks=Ks, width=side, height=side)
    frames = cast_boxes(cameras).replace(extras={}, alpha=None)
    frames = frames.replace(rgb=(frames.rgb.clamp(0, 1) * 255).round().to(torch.uint8).float() / 255)
    return {"left": frames[0], "right": frames[1]}
