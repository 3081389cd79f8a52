"""What the shipped weights make of the demo episode, as named tensors: the cases of the golden test."""

from __future__ import annotations

import torch
from torch import Tensor

from scene4d.apps.agent.agent import agent_maker
from scene4d.apps.compose.assets import DEMO_EPISODE, WEIGHTS
from scene4d.apps.compose.models import load_models
from scene4d.apps.compose.recorded_starts import make_world_env
from scene4d.apps.verbs.run_act import plan_actions
from scene4d.data.detect import open_recordings
from scene4d.eval.forecast.forecasters.model_forecaster import ModelForecaster
from scene4d.eval.forecast.forecasters.past_stream import INPUTS, PastStream
from scene4d.gaussians.s4d.s4d import write_s4d
from scene4d.lift.reconstruct import reconstruct
from scene4d.models.flow import seeded_noise
from scene4d.models.pixel_transformer.network import Clip, PixelModel, PixelsConfig
from scene4d.plan.cost import SuccessCost
from scene4d.plan.search import SearchConfig, find_plan
from scene4d.render.render import render
from scene4d.world.observation import Observation
from scene4d.world.rollout import predict_long

NOW, NUM_STEPS = 12, 12


def golden_values(folder) -> dict[str, Tensor]:
    """All cases; `folder` takes the files that some of them need."""
    episode = open_recordings(DEMO_EPISODE)[0].read()
    out: dict[str, Tensor] = {}
    for weights in (WEIGHTS, WEIGHTS.with_name("tiny.safetensors")):
        models = load_models(weights)
        out |= {f"{weights.stem}.{k}": v for k, v in _forecasts(models, episode).items()}
    models = load_models(WEIGHTS)
    out |= _reconstruction(episode)
    out |= _actions(models, episode)
    out |= _simulator(models, episode, folder)
    return out | _pixels()


def _forecasts(models, episode) -> dict[str, Tensor]:
    model, past = models.world, episode[: NOW + 1]
    stream = PastStream()
    state = ModelForecaster(model, stream).state(past)
    actions = episode.actions[NOW : NOW + NUM_STEPS]
    prediction = predict_long(model, state, actions=actions, seeds=(3,))
    scene = model.scene(state, prediction)
    cameras = episode.views["front"].cameras[NOW]
    last = scene.at(float(scene.times[-1]))
    out = {
        "memory": state.gaussians.means,
        "skin_weights": state.anchored.skin_weights,
        "world_from_now": prediction.world_from_now,
        "log_var": prediction.motion.log_var,
        "proprio": prediction.proprio,
        "reward": prediction.reward,
        "success": prediction.success,
        "future_means": last.means,
        "future_sh": last.sh,
        "flow": scene.flow(float(scene.times[0]), float(scene.times[-1]))[0],
        "render": render(last, cameras).rgb,
    }
    advanced = model.advance(state, model.predict(state, actions=actions[:8], seeds=(5,)), num_steps=3)
    out["advanced_memory"], out["advanced_proprio"] = advanced.gaussians.means, advanced.proprio
    out["inverse_actions"] = model.actions_for(state, prediction.world_from_now[:8], seeds=(4,)).actions
    own = model.propose(state.expand(2), seeds=(6, 7))
    out["own_actions"], out["own_motion"] = own.actions, own.world_from_now
    config = SearchConfig(num_samples=8, num_iterations=2, num_elites=3)
    out["plan"] = find_plan(model, state, cost=SuccessCost(), config=config, seed=1).actions
    return out


def _reconstruction(episode) -> dict[str, Tensor]:
    scene = reconstruct(episode[:6], cameras=INPUTS)
    image = render(scene.at(float(scene.times[-1])), episode.views["front"].cameras[5])
    return {"reconstruction.means": scene.base.means, "reconstruction.render": image.rgb}


def _actions(models, episode) -> dict[str, Tensor]:
    known = PastStream().remember(episode[: NOW + 1])
    seen = Observation.from_episode(episode[: NOW + 1], scene=known.scene, inputs=INPUTS)
    chunk = lambda forecast: plan_actions(models, seen, task=str(episode.info["task"]), forecast=forecast)["actions"]
    agent = agent_maker(models)(models.tasks[0])
    steps = [
        agent.step(
            {name: episode.views[name][t].replace(extras={}) for name in INPUTS},
            proprio=episode.proprio[t],
            task=models.tasks[0],
        )
        for t in range(4)
    ]
    return {
        "act.with_forecast": torch.tensor(chunk(True)),
        "act.without": torch.tensor(chunk(False)),
        "agent.steps": torch.stack(steps),
    }


def _simulator(models, episode, folder) -> dict[str, Tensor]:
    known = PastStream().remember(episode[: NOW + 1])
    keep = ("task", "robot", "action_spec", "proprio_spec", "action_meaning")
    info = {k: v for k, v in episode.info.items() if k in keep}
    info["proprio"] = episode.proprio[: NOW + 1].tolist()
    cameras = {name: frames.cameras[: NOW + 1] for name, frames in episode.views.items()}
    path = folder / "scene.s4d"
    spec = episode.info["action_spec"]
    write_s4d(path, known.scene, cameras=cameras, actions=episode.actions[: NOW + 1], action_spec=spec, info=info)
    env = make_world_env(models, [path])
    seen, _ = env.reset(seed=2)
    pictures, states, rewards = [seen["pixels"]["left"]], [seen["agent_pos"]], []
    for t in range(10):
        seen, reward, *_ = env.step(episode.actions[t].numpy())
        pictures.append(seen["pixels"]["left"])
        states.append(seen["agent_pos"])
        rewards.append(float(reward))
    stack = lambda arrays: torch.stack([torch.as_tensor(a) for a in arrays])
    return {"env.left": stack(pictures), "env.proprio": stack(states), "env.reward": torch.tensor(rewards)}


def _pixels() -> dict[str, Tensor]:
    torch.manual_seed(0)
    model = PixelModel(PixelsConfig(tasks=("a",))).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.05)
    c = model.config
    clip = Clip(
        pictures=torch.rand(1, c.num_past, c.num_views, c.size, c.size, 3),
        past_actions=torch.rand(1, c.num_past_actions, c.num_actions),
        actions=torch.rand(1, c.horizon, c.num_actions),
        past_proprio=torch.rand(1, c.num_past_actions + 1, c.num_proprio),
        known=torch.ones(1),
        task=torch.tensor([1]),
    )
    noise = seeded_noise([1], (c.horizon, len(model.places), c.channels), like=clip.actions)
    return {"pixels": model.draw(clip, noise=noise, steps=2)}
