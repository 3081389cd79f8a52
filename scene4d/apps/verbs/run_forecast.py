"""`scene4d forecast`: a scene and the robot's next actions to the future scene, its flow and its points."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from scene4d.apps.compose.recorded_actions import observation_and_actions
from scene4d.apps.terminal.option_checks import check_output
from scene4d.apps.terminal.progress import steps_shown
from scene4d.apps.verbs.options.agents import ForecastOptions
from scene4d.files import placed_together, sole_writer
from scene4d.gaussians.formats.points import write_flow_npz, write_gaussian_points
from scene4d.gaussians.s4d.s4d import S4DFile, open_s4d, write_s4d
from scene4d.scene import Scene4D
from scene4d.world.capabilities import Decodes, reaching, require, sampled
from scene4d.world.contract import Prediction
from scene4d.world.observation import Observation
from scene4d.world.rollout import predict_long


@sole_writer
def run_forecast(options: ForecastOptions) -> dict:
    """Forecast and write.

    Returns {output, flow, points, samples, start, num_steps, num_gaussians, num_new, moved_mm}.

    Raises:
        ConfigError: the scene is of another robot than the weights, or they cannot forecast scenes.
        DataFormatError: the scene or the actions are not as they should be.
    """
    for number in range(options.samples):
        check_output(_numbered(options.output, number), suffixes=(".s4d",), inputs=(options.scene,))
    # The futures, the flow and the points belong together: they appear when all are written.
    with placed_together(options.output) as draft, steps_shown(2 + options.samples) as step:
        model, file, known, actions = step("reading weights and scene", lambda: _start(options))
        to_draft = dataclasses.replace(options, output=draft / options.output.name)
        outputs = []
        for number in range(options.samples):
            write = functools.partial(
                _write_sample, to_draft, number, model=model, file=file, known=known, actions=actions
            )
            outputs.append(step(f"forecasting future {number + 1} of {options.samples}", write))
        path, scene = outputs[0]
        flow_path, points = step("writing flow and points", lambda: _write_motion(path, scene))
    outputs = [(options.output.with_name(written.name), each) for written, each in outputs]
    path, flow_path, points = (options.output.with_name(written.name) for written in (path, flow_path, points))
    now = float(scene.times[0])
    moved = scene.flow(now, float(scene.times[-1]))[0].norm(dim=-1)
    moving = moved[moved > 1e-3]
    return {
        "output": [str(p) for p, _ in outputs] if len(outputs) > 1 else str(path),
        "flow": str(flow_path),
        "points": str(points),
        "samples": options.samples,
        "start": int(known.known_scene.times.shape[-1]) - 1,
        "num_steps": int(actions.shape[0]),
        "num_gaussians": scene.base.num_gaussians,
        "num_new": int((scene.alive[:, 0] > now + 1e-6).sum()),
        "moved_mm": round(1e3 * float(moving.mean()), 2) if len(moving) else 0.0,
    }


def _start(options: ForecastOptions) -> tuple[Decodes, S4DFile, Observation, Tensor]:
    """The model, the scene's file, what is known of it, and the actions [h a] of the future."""
    from scene4d.apps.compose.models import load_models

    models = load_models(options.weights)
    model = sampled(require(models.world, Decodes, what="a forecast of scenes"), options.sampler_steps)
    file = open_s4d(options.scene)
    asked, scene, num_steps = options.actions, file.scene(), options.steps
    if options.seconds is not None:
        instants = len(scene.times) > 1
        frame_seconds = float(scene.times.diff().median()) if instants else model.spec.step_seconds
        num_steps = max(1, round(options.seconds / frame_seconds))
    known, actions = observation_and_actions(file, actions=asked, start=options.start, num_steps=num_steps, scene=scene)
    models.world.spec.robot_like(known.robot, file=options.scene)
    return model, file, known, actions


def _write_sample(
    options: ForecastOptions, number: int, *, model: Decodes, file: S4DFile, known: Observation, actions: Tensor
) -> tuple[Path, Scene4D]:
    """Forecast and write one of the futures."""
    seed, path = options.seed + number, _numbered(options.output, number)
    scene, prediction = predicted_scene(model, known, actions=actions, seed=seed)
    info = {"seed": seed, "weights": str(options.weights or "shipped"), "source": str(options.scene)}
    write_future(path, scene, prediction=prediction, known=known, file=file, info=info)
    return path, scene


def _write_motion(path: Path, scene: Scene4D) -> tuple[Path, Path]:
    """Flow and points beside the future; returns the file and the folder."""
    flow_path, points = path.with_suffix(".flow.npz"), path.with_suffix("").with_name(f"{path.stem}_points")
    write_flow_npz(flow_path, scene)
    now = float(scene.times[0])
    for step, time in enumerate(scene.times.tolist()):
        write_gaussian_points(points / f"{step:04d}.ply", scene.at(time), flow=scene.flow(now, time)[0])
    return flow_path, points


def _numbered(path: Path, number: int) -> Path:
    """Where sample `number` goes."""
    return path if number == 0 else path.with_suffix(f".{number}{path.suffix}")


@torch.no_grad()
def predicted_scene(model: Decodes, known: Observation, *, actions: Tensor, seed: int) -> tuple[Scene4D, Prediction]:
    """One future under actions [h a]: now and h frames, in steps and chunks as long as these ask for."""
    state, model = model.observe(known), reaching(model, len(actions))
    prediction = predict_long(model, state, actions=actions, seeds=(seed,))
    return model.scene(state, prediction), prediction


def write_future(
    path: Path, scene: Scene4D, *, prediction: Prediction, known: Observation, file: S4DFile, info: Mapping[str, Any]
) -> None:
    """Write now and h predicted steps as a .s4d that all can start from who start from a reconstructed one.

    Robot states and cameras are those of its own instants; a camera that moves stays where its recording ends.
    """
    now, num = known.known_scene.times.shape[-1] - 1, scene.times.shape[-1]
    ahead = now + torch.arange(num)
    cameras = {n: c[ahead.clamp_max(len(c.Ks) - 1)] if c.batch_shape else c for n, c in file.cameras.items()}
    described, states = known.robot.as_info(), known.proprio[-1:]
    if prediction.proprio is not None:
        states = torch.cat([states, prediction.proprio])
    specs = {key: described.get(key) for key in ("proprio_spec", "action_meaning")}
    info = {"task": known.task.text, "proprio": states.tolist(), **specs, "input_cameras": list(known.cameras), **info}
    write_s4d(path, scene, cameras=cameras, actions=prediction.actions, action_spec=file.action_spec, info=info)
