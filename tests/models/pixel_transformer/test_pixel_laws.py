"""The laws of world models, for the 2D baseline."""

from __future__ import annotations

import torch
from world_model_laws import WorldModelLaws

from scene4d.apps.compose.models import Models, load_models, make_models, save_models
from scene4d.geometry.camera import intrinsics_from_fov, look_at
from scene4d.models.pixel_transformer.network import PixelsConfig
from scene4d.robot.spec import RobotSpec
from scene4d.types import Cameras, Frames, Task
from scene4d.world.observation import Observation

ROBOT = RobotSpec.from_info(
    {
        "action_spec": [{"name": n} for n in ("dx", "dy", "dz", "gripper")],
        "proprio_spec": [{"name": n} for n in ("hand_x", "hand_y", "hand_z", "opening")],
    },
    step_seconds=0.025,
)
SIZE, CAMERAS = 16, ["left", "right"]


class TestPixelTransformer(WorldModelLaws):
    """Two cameras that see noise, at twice the model's size."""

    def make_model(self):
        config = PixelsConfig(size=SIZE, patch=8, horizon=4, width=16, depth=2, num_heads=2, hidden=16, condition=16)
        info = {"context": ROBOT.as_info(), "step_seconds": 0.025, "cameras": CAMERAS}
        self.models = make_models({"pixels": config}, family="pixel_transformer", info=info)
        model = self.models.world.eval().requires_grad_(False)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            for parameter in model.parameters():
                torch.nn.init.normal_(parameter, std=0.2)
        return model

    def make_observation(self, kind: int = 0):
        generator = torch.Generator().manual_seed(kind)
        eye = look_at(torch.tensor([0.0, -1.0, 0.5]), torch.zeros(3)).expand(3, 4, 4)
        K = intrinsics_from_fov(0.8, width=2 * SIZE, height=2 * SIZE).expand(3, 3, 3)
        cameras = Cameras(viewmats=eye, Ks=K, width=2 * SIZE, height=2 * SIZE)
        picture = lambda: torch.rand(3, 2 * SIZE, 2 * SIZE, 3, generator=generator)
        return Observation(
            actions=2 * torch.rand(2, 4, generator=generator) - 1,
            proprio=torch.rand(3, 4, generator=generator),
            robot=ROBOT,
            frames={n: Frames(rgb=picture(), depth=None, alpha=None, cameras=cameras) for n in CAMERAS},
            task=Task("push"),
        )

    def reloaded(self, model, folder):
        models = Models(family=self.models.family, world=model, policy=None, info=self.models.info)
        save_models(folder / "weights.safetensors", models, info=models.info, half=False)
        return load_models(folder / "weights.safetensors").world
