"""The laws of world models, for gaussian_flow."""

from __future__ import annotations

from dataclasses import replace

import small_world
import torch
from world_model_laws import WorldModelLaws

from scene4d.apps.compose.models import Models, load_models, make_models, save_models
from scene4d.robot.several_robots import info_of_robots
from scene4d.robot.spec import RobotSpec, VectorSpec


class TestGaussianFlow(WorldModelLaws):
    """A little scene with a moving block."""

    def make_model(self):
        model = small_world.world_model()
        model.robots = (small_world.ROBOT,)
        return model

    def make_observation(self, kind: int = 0):
        scene = small_world.block_scene(num_floor=160 if kind == 0 else 120)
        known = small_world.observation(scene)
        return known if kind == 0 else known.replace(proprio=known.proprio + 0.01)


class TestStoredGaussianFlow(WorldModelLaws):
    """The same with the autoencoder of the family, which is stored with it."""

    robots = (replace(small_world.ROBOT, step_seconds=0.025),)

    def make_model(self):
        torch.manual_seed(0)
        info = info_of_robots(self.robots)
        models = make_models({"dynamics": small_world.CONFIG}, info=info)
        with torch.no_grad():
            for parameter in models.world.parameters():
                parameter.add_(0.02 * torch.randn_like(parameter))
            models.world.denoiser.out.bias[12] += 6.0
        self.models = models
        for part in models.parts().values():
            part.eval()
        return models.world

    def make_observation(self, kind: int = 0):
        return TestGaussianFlow.make_observation(self, kind)

    def reloaded(self, model, folder):
        models = Models(family=self.models.family, world=model, policy=None, info=self.models.info)
        save_models(folder / "weights.safetensors", models, info=models.info, half=False)
        return load_models(folder / "weights.safetensors").world


JOINTS = VectorSpec.from_rows([{"name": f"joint{i}", "unit": "rad"} for i in range(6)])


class TestGaussianFlowOfSeveralRobots(TestStoredGaussianFlow):
    """Weights that know two robots hold to the laws with each of them."""

    robots = (RobotSpec(JOINTS, JOINTS, step_seconds=0.025, name="arm"), *TestStoredGaussianFlow.robots)
