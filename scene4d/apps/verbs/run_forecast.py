"""`scene4d forecast`: a scene and the robot's next actions to the future scene, its flow and its points."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from scene4d.apps.terminal.option_checks import check_output
from scene4d.apps.verbs.options.agents import ForecastOptions
from scene4d.errors import ConfigError, DataFormatError
from scene4d.gaussians.formats.points import write_flow_npz, write_gaussian_points
from scene4d.gaussians.s4d.s4d import S4DFile, open_s4d, write_s4d
from scene4d.models.gaussian_flow.model import GaussianWorldModel
from scene4d.robot.bounds import action_bounds
from scene4d.scene import Scene4D
from scene4d.world.contract import Forecast
from scene4d.world.rollout import forecast_long


@dataclass(frozen=True)
class Past:
    """What the forecaster is given: scene up to now, past_actions [p a], proprio [p q] with now last, context."""

    scene: Scene4D
    past_actions: Tensor
    proprio: Tensor
    context: Mapping[str, Any]


def run_forecast(options: ForecastOptions) -> dict:
    """Forecast and write.

    Returns {output, flow, points, samples, start, num_steps, num_gaussians, num_new, moved_mm}.
    """
    from scene4d.apps.compose.models import load_models

    for number in range(options.samples):
        check_output(_numbered(options.output, number), suffixes=(".s4d",), inputs=(options.scene,))
    models = load_models(options.weights)
    file = open_s4d(options.scene)
    past, actions = past_from_file(file, actions=options.actions, start=options.start, num_steps=options.steps)
    seeds = list(range(options.seed, options.seed + options.samples))
    outputs = []
    for number, seed in enumerate(seeds):
        scene, forecast = forecast_from(models.dynamics, past, actions=actions, seed=seed, steps=options.sampler_steps)
        path = _numbered(options.output, number)
        info = {"seed": seed, "weights": str(options.weights or "shipped"), "source": str(options.scene)}
        write_future(path, scene, forecast=forecast, past=past, file=file, info=info)
        outputs.append((path, scene))
    path, scene = outputs[0]
    flow_path, points = path.with_suffix(".flow.npz"), path.with_suffix("").with_name(f"{path.stem}_points")
    write_flow_npz(flow_path, scene)
    now = float(scene.times[0])
    for step, time in enumerate(scene.times.tolist()):
        write_gaussian_points(points / f"{step:04d}.ply", scene.at(time), flow=scene.flow(now, time)[0])
    moved = scene.flow(now, float(scene.times[-1]))[0].norm(dim=-1)
    moving = moved[moved > 1e-3]
    return {
        "output": [str(p) for p, _ in outputs] if len(outputs) > 1 else str(path),
        "flow": str(flow_path),
        "points": str(points),
        "samples": options.samples,
        "start": int(past.scene.times.shape[-1]) - 1,
        "num_steps": int(actions.shape[0]),
        "num_gaussians": scene.base.num_gaussians,
        "num_new": int((scene.alive[:, 0] > now + 1e-6).sum()),
        "moved_mm": round(1e3 * float(moving.mean()), 2) if len(moving) else 0.0,
    }


def _numbered(path: Path, number: int) -> Path:
    """Where sample `number` goes."""
    return path if number == 0 else path.with_suffix(f".{number}{path.suffix}")


@torch.no_grad()
def forecast_from(
    model: GaussianWorldModel, past: Past, *, actions: Tensor, seed: int = 0, steps: int = 4
) -> tuple[Scene4D, Forecast]:
    """One future of `past` under actions [h a]: now and h steps, in chunks where h is beyond the model's horizon."""
    state = model.observe(past.scene, actions=past.past_actions, proprio=past.proprio, context=past.context)
    forecast = forecast_long(model, state, actions=actions, horizon=model.horizon, steps=steps, seeds=(seed,))
    return model.scene(state, forecast), forecast


def write_future(
    path: Path, scene: Scene4D, *, forecast: Forecast, past: Past, file: S4DFile, info: Mapping[str, Any]
) -> None:
    """Write now and h predicted steps as a .s4d that all can start from who start from a reconstructed one.

    Robot states and cameras are those of its own instants; a camera that moves stays where its recording ends.
    """
    now, num = past.scene.times.shape[-1] - 1, scene.times.shape[-1]
    ahead = now + torch.arange(num)
    cameras = {n: c[ahead.clamp_max(len(c.Ks) - 1)] if c.batch_shape else c for n, c in file.cameras.items()}
    context = {
        "task": past.context["task"],
        "proprio": [past.proprio[-1].tolist(), *forecast.heads["proprio"].tolist()],
        "proprio_spec": past.context["proprio_spec"],
        "action_meaning": past.context["action_meaning"],
        "input_cameras": list(past.context["cameras"]),
    }
    write_s4d(
        path,
        scene,
        cameras=cameras,
        actions=forecast.actions,
        action_spec=file.action_spec,
        info={**context, **info},
    )


def past_from_file(
    file: S4DFile, *, actions: str, start: int | None, num_steps: int, scene: Scene4D | None = None
) -> tuple[Past, Tensor]:
    """What a .s4d holds of the past up to frame `start`, and the actions [h a] from there on.

    Args:
        scene: that of the file, where it was read before.
    Raises:
        DataFormatError: the file lacks actions or proprio, or there are no actions after `start`.
    """
    scene, stored = file.scene() if scene is None else scene, file.actions
    if stored is None:
        fix = "reconstruct, without --holdout, a recording with actions (lerobot, rlbench or `scene4d record`)"
        raise DataFormatError("holds no actions", file=file.path, field="actions", fix=fix)
    last = scene.times.shape[-1] - 1
    given = None if actions == "recorded" else read_actions(Path(actions), width=stored.shape[-1])
    if given is not None:
        check_actions(given, file=file, path=Path(actions))
    if start is None:
        start = last if given is not None or len(stored) > last + 1 else max(0, last - num_steps)
    if not 0 <= start <= last:
        raise ConfigError("no such frame in the scene", field="start", found=start, expected=f"0..{last}")
    future = (stored[start:] if given is None else given)[:num_steps]
    if given is None and len(stored) == last + 1:
        future = future[: last - start]  # the last stored action leads out of the recording
    if len(future) == 0:
        fix = "lower --start" if start > 0 else "name a file of actions: --actions FILE"
        raise DataFormatError("no recorded action after this frame", file=file.path, frame=start, fix=fix)
    info = file.info
    proprio = info.get("proprio")
    if proprio is None or len(proprio) <= start:
        fix = "reconstruct it from a recording that has the robot's state"
        raise DataFormatError("holds no proprio", file=file.path, field="info.proprio", fix=fix)
    context = {
        "task": info.get("task", ""),
        "action_spec": file.action_spec or None,
        "proprio_spec": info.get("proprio_spec"),
        "action_meaning": info.get("action_meaning"),
        "cameras": file.input_cameras(start),
    }
    proprio = torch.tensor(proprio, dtype=torch.float32)[: start + 1]
    return Past(cut(scene, start), stored[:start].float(), proprio, context), future.float()


def cut(scene: Scene4D, last: int) -> Scene4D:
    """The scene as it was known at frame `last`: later frames gone, later births gone, later deaths not yet known."""
    now = float(scene.times[last])
    born = scene.alive[:, 0] <= now + 1e-6
    alive = scene.alive[born].clone()
    alive[:, 1] = torch.where(alive[:, 1] >= now, torch.full_like(alive[:, 1], float("inf")), alive[:, 1])
    motion = scene.motion
    return scene.replace(
        base=scene.base.pick(born),
        motion=motion.replace(
            world_from_rest=motion.world_from_rest[: last + 1],
            log_var=None if motion.log_var is None else motion.log_var[: last + 1],
            skin_index=motion.skin_index[born],
            skin_weights=motion.skin_weights[born],
        ),
        alive=alive,
        times=scene.times[: last + 1],
        observed=scene.observed[: last + 1],
        residual={k: v[: last + 1, born] for k, v in scene.residual.items()} if scene.residual else None,
    )


def read_actions(path: Path, *, width: int) -> Tensor:
    """Actions [h a] from .json (a list of rows, or {"actions": rows}), .npy, or .csv (one row a line, # comments).

    Raises:
        DataFormatError: missing, unreadable, or rows of another width.
    """
    try:
        match path.suffix.lower():
            case ".json":
                found = json.loads(path.read_text(encoding="utf-8"))
                rows = np.asarray(found["actions"] if isinstance(found, dict) else found, np.float32)
            case ".npy":
                rows = np.load(path, allow_pickle=False).astype(np.float32)
            case ".csv":
                rows = np.loadtxt(path, delimiter=",", dtype=np.float32, ndmin=2)
            case other:
                raise DataFormatError("of no known kind", file=path, found=other, expected=".json, .npy or .csv")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataFormatError("cannot be read as actions", file=path, found=str(error)[:100]) from error
    if rows.ndim != 2 or rows.shape[1] != width or len(rows) == 0:
        raise DataFormatError("are no actions", file=path, found=list(rows.shape), expected=f"[h {width}]")
    return torch.from_numpy(rows)


def check_actions(rows: Tensor, *, file: S4DFile, path: Path) -> None:
    """Refuse actions [h a] from `path` that are not finite, or beyond what the spec of `file` says of its robot.

    What was recorded is no bound: a forecast may ask what something else would do.

    Raises:
        DataFormatError: naming the first of them.
    """
    context = {"action_spec": file.action_spec or None, "action_meaning": file.info.get("action_meaning")}
    low, high = action_bounds(context, width=rows.shape[-1])
    wrong = ~(rows.isfinite() & (rows >= low - 1e-5) & (rows <= high + 1e-5))
    if bool(wrong.any()):
        row, column = wrong.nonzero()[0].tolist()
        raise DataFormatError(
            "is not finite or out of range", file=path, field=f"actions[{column}]", frame=row,
            found=float(rows[row, column]), expected=f"{float(low[column]):g} to {float(high[column]):g}",
        )  # fmt: skip
