"""A little world for the tests of dynamics: a plain codec, a scene with a moving block, a model with noise in it."""

from __future__ import annotations

import dataclasses

import torch

from scene4d.geometry.camera import intrinsics_from_fov, look_at
from scene4d.models.gaussian_flow.model import GaussianWorldModel
from scene4d.models.gaussian_flow.networks.action_denoiser import ActionDenoiserConfig
from scene4d.models.gaussian_flow.networks.dit import DiTConfig
from scene4d.models.gaussian_flow.settings import DynamicsConfig
from scene4d.models.tokens.anchors import AnchorConfig
from scene4d.models.tokens.latent import Codec, Latent
from scene4d.robot.spec import RobotSpec
from scene4d.scene import Motion, Scene4D
from scene4d.types import Cameras, Gaussians, Task
from scene4d.world.observation import Observation

CHANNELS = 8
ROBOT = RobotSpec.from_info(
    {
        "action_spec": [{"name": n} for n in ("dx", "dy", "dz", "gripper")],
        "proprio_spec": [{"name": n} for n in ("hand_x", "hand_y", "hand_z", "gripper_opening")],
    }
)
CONFIG = DynamicsConfig(anchors=AnchorConfig(num_anchors=16), dit=DiTConfig(width=32, depth=4, hidden=32, condition=32))


class PlainCodec(Codec):
    """Tokens are the colour and height of an anchor, padded; a token decodes to two Gaussians, above and below it."""

    def encode(self, gaussians, *, anchors=None):
        rows = anchors[..., None]
        take = lambda x: x.gather(-2, rows.expand(*anchors.shape, x.shape[-1]))
        at, rgb = take(gaussians.means), take(gaussians.sh[..., 0, :])
        tokens = torch.nn.functional.pad(torch.cat([rgb, at[..., 2:]], -1), (0, CHANNELS - 4))
        ids = gaussians.ids.gather(-1, anchors)
        turns = at.new_tensor([1.0, 0, 0, 0]).expand(*anchors.shape, 4)
        return Latent(tokens=tokens, anchors=at, rotations=turns, present=ids >= 0, ids=ids), torch.zeros_like(tokens)

    def decode(self, latent):
        step = latent.anchors.new_tensor([[0.0, 0.0, 0.05], [0.0, 0.0, -0.05]])
        means = (latent.anchors[..., None, :] + step).flatten(-3, -2)
        like = means[..., 0]
        return Gaussians(
            means=means,
            quats=means.new_tensor([1.0, 0, 0, 0]).expand(*like.shape, 4),
            scales=torch.full_like(means, 0.02),
            opacities=torch.full_like(like, 0.9),
            sh=torch.zeros(*like.shape, 1, 3),
        )


def world_model(*, seed: int = 0, strides: tuple[int, ...] = (1,), **dit: bool) -> GaussianWorldModel:
    """A model whose zero-initialised layers were stirred, so that it moves anchors and every input counts."""
    torch.manual_seed(seed)
    intent = ActionDenoiserConfig(num_actions=8 * min(2, max(strides)), timed=dit.get("timed", False))
    config = dataclasses.replace(CONFIG, dit=dataclasses.replace(CONFIG.dit, **dit), strides=strides, intent=intent)
    model = GaussianWorldModel(PlainCodec(), config, channels=CHANNELS)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
        # Only tests of new matter have any.
        for head in (model.completion.of_anchor, model.completion.of_place):
            head.out.layers[-1].weight.unflatten(0, (-1, 14))[:, 10] = 0
            head.out.layers[-1].bias.unflatten(0, (-1, 14))[:, 10] = -6
        # Anchors move, so that laws about motion say something.
        model.denoiser.out.bias[12] += 6.0
    return model.eval()


def block_scene(*, num_floor: int = 160, num_block: int = 48, num_times: int = 4) -> Scene4D:
    """A floor at rest and a red block that has been going along x by 1 cm a step."""
    generator = torch.Generator().manual_seed(1)
    floor = torch.rand(num_floor, 3, generator=generator) * torch.tensor([0.8, 0.8, 0.0])
    block = torch.rand(num_block, 3, generator=generator) * 0.1 + torch.tensor([0.3, 0.3, 0.05])
    num = num_floor + num_block
    sh = torch.zeros(num, 1, 3)
    sh[num_floor:, 0, 0] = 1.5
    sh[:, 0] += 0.1 * torch.rand(num, 3, generator=generator)
    times = 0.025 * torch.arange(num_times, dtype=torch.float64)
    poses = torch.tensor([1.0, 0, 0, 0, 0, 0, 0]).repeat(num_times, 1, 1)
    poses[:, 0, 4] = 0.01 * torch.arange(num_times)
    weights = torch.zeros(num, 1)
    weights[num_floor:] = 1.0
    return Scene4D(
        base=Gaussians(
            means=torch.cat([floor, block]),
            quats=torch.tensor([1.0, 0, 0, 0]).repeat(num, 1),
            scales=torch.full((num, 3), 0.02),
            opacities=torch.full((num,), 0.9),
            sh=sh,
            ids=torch.arange(num) + 100,
        ),
        motion=Motion(
            anchors=block.mean(0, keepdim=True),
            world_from_rest=poses,
            skin_index=torch.zeros(num, 1, dtype=torch.int64),
            skin_weights=weights,
        ),
        alive=torch.tensor([0.0, float("inf")]).expand(num, 2).double(),
        times=times,
        observed=torch.ones(num_times, dtype=torch.bool),
    )


def shuffled(scene: Scene4D, order: torch.Tensor) -> Scene4D:
    """The same scene with its rows in another order."""
    motion = scene.motion
    return scene.replace(
        base=scene.base.pick(order),
        alive=scene.alive[order],
        motion=motion.replace(skin_index=motion.skin_index[order], skin_weights=motion.skin_weights[order]),
    )


def camera() -> Cameras:
    """One camera [1] that looks down at the block from above."""
    eye, target = torch.tensor([[0.4, -0.3, 0.9]]), torch.tensor([[0.4, 0.4, 0.0]])
    K = intrinsics_from_fov(0.8, width=32, height=32)[None]
    return Cameras(viewmats=look_at(eye, target), Ks=K, width=32, height=32)


def observation(scene: Scene4D | None = None, **changes) -> Observation:
    """What is known of the block scene now."""
    generator = torch.Generator().manual_seed(2)
    seen = Observation(
        scene=block_scene() if scene is None else scene,
        actions=torch.rand(2, 4, generator=generator) * 2 - 1,
        proprio=torch.tensor([[0.33, 0.35, 0.15, 0.05], [0.34, 0.35, 0.15, 0.05]]),
        robot=ROBOT,
        task=Task("door-open-v3"),
    )
    return seen.replace(**changes)


def observed(model: GaussianWorldModel, scene: Scene4D | None = None, **changes):
    """The model's state of the block scene."""
    return model.observe(observation(scene, **changes))


def some_actions(num_steps: int = 8, *, seed: int = 3) -> torch.Tensor:
    """Actions [h 4] in [-1, 1]."""
    return torch.rand(num_steps, 4, generator=torch.Generator().manual_seed(seed)) * 2 - 1
