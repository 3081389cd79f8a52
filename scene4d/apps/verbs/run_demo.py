"""`scene4d demo`: the whole path on the built-in episode, into one folder that a browser can open."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from scene4d.apps.compose.assets import DEMO_EPISODE
from scene4d.apps.compose.models import Models, load_models
from scene4d.apps.page.demo_films import DemoResult, film_depth_and_flow, film_forecast, film_orbit
from scene4d.apps.page.page import Page, write_page
from scene4d.apps.terminal.progress import side_by_side, steps_shown
from scene4d.apps.terminal.scene_pictures import write_pictures
from scene4d.apps.terminal.tables import columns_table, result_table
from scene4d.apps.verbs.options.agents import DemoOptions
from scene4d.apps.verbs.run_act import plan_actions
from scene4d.apps.verbs.run_forecast import predicted_scene
from scene4d.data.detect import open_recordings
from scene4d.errors import ConfigError
from scene4d.eval.forecast.forecasters.baselines import ConstantVelocity, CopyLast
from scene4d.eval.forecast.forecasters.model_forecaster import render_forecast
from scene4d.eval.forecast.forecasters.past_stream import PastStream
from scene4d.eval.forecast.window_scores import ForecastEvalConfig, past_of, score_window
from scene4d.files import atomic_file, atomic_folder, sole_writer, write_text
from scene4d.gaussians.formats.points import write_flow_npz, write_gaussian_points
from scene4d.gaussians.s4d.s4d import open_s4d, write_s4d
from scene4d.robot.spec import RobotSpec
from scene4d.scene import RememberedScene, Scene4D
from scene4d.types import Episode, Frames
from scene4d.world.capabilities import Decodes, require
from scene4d.world.evaluated import ForecastQuestion
from scene4d.world.observation import Observation

HORIZONS = (1, 4, 8)
NOVEL = "front"


@sole_writer
def run_demo(options: DemoOptions) -> dict:
    """Reconstruct, forecast, render, act; returns report.json."""
    start = time.monotonic()
    seconds: dict[str, float] = {}
    out = options.output
    with steps_shown(7, seconds) as step:
        models = step("reading weights and episode", lambda: load_models(options.weights))
        episode = read_episode(options)
        stream = PastStream()
        reconstructed = lambda: reconstruct_and_forecast(models, episode, stream=stream, options=options)
        result = step("reconstructing, forecasting", reconstructed)
        films, scores, chosen = "rendering videos", "scoring against the recording", "choosing actions"
        works = {
            films: lambda: write_films(out, result),
            scores: lambda: score(result, stream=stream, options=options),
            "writing the future, flow and points": lambda: write_future_files(out, result),
            chosen: lambda: plan_actions(models, result.known, task=result.known.task.text),
        }
        made = side_by_side(step, works)
        report: dict[str, Any] = {
            "episode": f"{episode.info.get('task', 'episode')}, seed {episode.info.get('seed', '?')}",
            "now": options.now,
            "num_steps": options.num_steps,
            "num_gaussians": result.future.base.num_gaussians,
            "horizon": made[scores],
            "actions": made[chosen],
            "seconds": seconds,
        }
        step("writing the page", lambda: write_reports(out, result, report=report, videos=made[films]))
    report["seconds_total"] = round(time.monotonic() - start, 1)
    return {"output": str(out), **{k: v for k, v in report.items() if k != "actions"}, "files": _files(out)}


def text_of(result: Mapping[str, Any]) -> str:
    """Where the results lie, and the forecast beside its baselines."""
    horizon = result["horizon"]
    psnr = lambda row: {name: row[name]["psnr"] for name in ("copy_last", "constant_velocity")}
    rows = {f"{steps} steps ahead": {"ours": row["psnr"], **psnr(row)} for steps, row in horizon.items()}
    facts = {key: result[key] for key in ("episode", "num_gaussians", "seconds_total")}
    page = Path(result["output"]) / "index.html"
    heading = "PSNR in dB of the forecast, on the cameras that it saw"
    return "\n".join([result_table(facts), "", heading, columns_table(rows), "", f"open {page} in a browser"])


def read_episode(options: DemoOptions) -> Episode:
    """The first episode of the recording, long enough for the forecast.

    Raises:
        ConfigError: the recording is too short for `now` and `num_steps`.
    """
    source = options.episode or DEMO_EPISODE
    episode = open_recordings(source)[0].read()
    needed = options.now + options.num_steps + 1
    if not options.now >= 1 or options.num_steps < max(HORIZONS) or len(episode.times) < needed:
        problem, field, found = "does not fit the recording", "now + num_steps", f"{options.now} + {options.num_steps}"
        expected = f"now >= 1, num_steps >= {max(HORIZONS)}, together < {len(episode.times)} frames"
        raise ConfigError(problem, file=source, field=field, found=found, expected=expected)
    return episode


def reconstruct_and_forecast(
    models: Models, episode: Episode, *, stream: PastStream, options: DemoOptions
) -> DemoResult:
    """Reconstruct the past from the input cameras alone into scene.s4d, then forecast from that file.

    So `scene4d forecast scene.s4d` under the same actions gives the same future, bit for bit.
    """
    model = require(models.world, Decodes, what="the demo")
    now, path = options.now, options.output / "scene.s4d"
    memory = stream.remember(past_of(episode, now))
    robot = RobotSpec.from_info(episode.info)
    info = {k: episode.info[k] for k in ("task", "seed") if k in episode.info} | robot.as_info()
    info |= {"proprio": episode.proprio[: now + 1].tolist(), "input_cameras": list(stream.inputs)}
    cameras = {name: frames.cameras[: now + 1] for name, frames in episode.views.items()}
    past, rows = episode.actions[: now + 1], robot.action.rows()
    write_s4d(path, memory.scene, cameras=cameras, actions=past, action_spec=rows, info=info)
    file = open_s4d(path)
    scene = file.scene()
    known = Observation.from_s4d(file, scene=scene, start=scene.times.shape[-1] - 1)
    actions = episode.actions[now : now + options.num_steps]
    future, _ = predicted_scene(model, known, actions=actions, seed=options.seed)
    return DemoResult(episode, now, known, RememberedScene.of(future), memory.background)


@dataclass(frozen=True)
class MadeForecast:
    """The forecast that is shown, as one of the forecasters that are scored."""

    result: DemoResult
    name: str = "ours"

    def forecast(self, question: ForecastQuestion) -> tuple[dict[str, Frames], Scene4D]:
        """Implements `Forecaster`."""
        future = self.result.future
        return render_forecast(future, question, background=self.result.background), future


def score(result: DemoResult, *, stream: PastStream, options: DemoOptions) -> dict:
    """{steps ahead: {metric: ours, copy_last: {...}, constant_velocity: {...}}} on this one episode."""
    episode, forecasters = result.episode, [MadeForecast(result), CopyLast(stream), ConstantVelocity(stream)]
    config = ForecastEvalConfig(horizons=HORIZONS, novel=(NOVEL,))
    scores = score_window(forecasters, episode, start=options.now, config=config, past_stream=stream)
    clean: Callable[[dict], dict] = lambda row: {k: round(v, 5) for k, v in row.items() if math.isfinite(v)}
    table = {}
    for steps in HORIZONS:
        ours, *others = [(f.name, clean(scores[f.name, steps])) for f in forecasters]
        table[str(steps)] = {**ours[1], **dict(others)}
    return table


def write_future_files(out: Path, result: DemoResult) -> None:
    """future.s4d, flow.npz and points/NNNN.ply, beside scene.s4d."""
    future, now = result.future, result.now
    last, described = now + len(future.times), result.known.robot.as_info()
    info = {"task": result.known.task.text, "proprio": result.known.proprio[-1:].tolist(), **described}
    cameras = {name: c[now:last] for name, c in result.cameras.items()}
    actions, rows = result.episode.actions[now:last], described.get("action_spec", ())
    write_s4d(out / "future.s4d", future, cameras=cameras, actions=actions, action_spec=rows, info=info)
    write_flow_npz(out / "flow.npz", future)
    times = future.times.tolist()
    with atomic_folder(out / "points", replace=True) as folder:
        for index, instant in enumerate(times):
            flow = future.flow(times[0], instant)[0]
            write_gaussian_points(folder / f"{index:04d}.ply", future.at(instant), flow=flow)


def write_films(out: Path, result: DemoResult) -> dict[str, Path]:
    """forecast.mp4, orbit.mp4, flow.mp4 and picture.png (the README's)."""
    forecast = film_forecast(result, novel=NOVEL)
    films = {"forecast": forecast, "orbit": film_orbit(result), "flow": film_depth_and_flow(result)}
    paths = {name: out / f"{name}.mp4" for name in films}
    for name, pictures in films.items():
        write_pictures(paths[name], pictures, fps=10.0)
    shown = forecast[len(forecast) - len(result.future.times) + max(HORIZONS)]
    with atomic_file(out / "picture.png") as temporary:
        Image.fromarray(shown).save(temporary)
    return paths


def write_reports(out: Path, result: DemoResult, *, report: dict, videos: dict[str, Path]) -> None:
    """actions.json, report.json and index.html."""
    for name, value in (("actions", report["actions"]), ("report", report)):
        write_text(out / f"{name}.json", json.dumps(value, indent=1))
    page = Page(
        title=f"{report['episode']}: what happens next",
        summary=f"{result.now + 1} frames from two RGB-D cameras became {len(result.past.base.ids)} Gaussians; "
        f"the next {report['num_steps']} steps were forecast under the recorded actions.",
        videos=videos,
        future=result.future,
        horizon=report["horizon"],
        actions=report["actions"],
        files=_files(out),
    )
    write_page(out / "index.html", page)


def _files(out: Path) -> list[str]:
    points = sorted(p.name for p in (out / "points").glob("*.ply"))
    names = sorted(p.name for p in out.iterdir() if p.is_file() and not p.name.startswith("."))
    return [*names, f"points/{points[0]}", f"points/{points[-1]}"] if points else names
