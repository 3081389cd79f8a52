"""`scene4d eval reconstruct`: held-out views, depth, normals, motion and identity beside the baselines, one table."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from scene4d.apps.terminal.progress import counter_shown
from scene4d.apps.verbs.options.evaluation import EvalReconstructOptions
from scene4d.apps.verbs.run_reconstruct import FIT_SECONDS, cameras_with_depth, read_part
from scene4d.data.detect import open_recordings
from scene4d.errors import ConfigError
from scene4d.eval.metrics.seeds import seed_range
from scene4d.eval.reconstruct.reconstruction_table import ReconstructEvalConfig, Source, evaluate_reconstruction
from scene4d.lift.reconstruct import ReconstructConfig, reconstruct
from scene4d.lift.refine.fit import FitConfig
from scene4d.scene import Scene4D
from scene4d.sim import rig
from scene4d.sim.recorder import open_sim, record_with
from scene4d.types import Episode, Recording

HEADINGS = {
    "psnr": "PSNR", "psnr_sensor": "sensor", "psnr_covered": "covered", "psnr_moving": "moving", "ssim": "SSIM",
    "lpips": "LPIPS", "depth_absrel": "AbsRel", "depth_absrel_covered": "AbsRel covered", "normal_deg": "normals deg",
}  # fmt: skip
DIGITS = {"ssim": 3, "lpips": 3, "depth_absrel": 4, "depth_absrel_covered": 4, "normal_deg": 1}


def run_eval_reconstruct(options: EvalReconstructOptions) -> dict[str, Any]:
    """Score; returns what `evaluate_reconstruction` returns.

    Raises:
        ConfigError: no camera or number of `holdout` fits a recording. What the readers and the simulator raise.
    """
    fit = FitConfig(max_seconds=FIT_SECONDS) if options.fit else None

    def rebuild(episode: Episode, names: Sequence[str]) -> Scene4D:
        with counter_shown("reconstructing") as count:
            return reconstruct(episode, cameras=names, config=ReconstructConfig(fit=fit), progress=count)

    config = ReconstructEvalConfig(tsdf=options.tsdf, instants=options.instants, view_every=options.view_every)
    return evaluate_reconstruction(_sources(options), config=config, rebuild=rebuild, progress=_print_scored)


def _sources(options: EvalReconstructOptions) -> Iterator[Source]:
    """One recording at a time, folders first."""
    for folder in options.sources:
        recordings = open_recordings(folder)
        for index, recording in enumerate(recordings[: options.episodes]):
            name = folder.name if len(recordings) == 1 else f"{folder.name}/{index}"
            yield _from_folder(recording, options, name=name)
    tasks = options.tasks or (() if options.sources else rig.TASKS)
    for task in tasks:
        yield from _simulated(task, options)


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit()  # "²" is a digit too, and no number


def _from_folder(recording: Recording, options: EvalReconstructOptions, *, name: str) -> Source:
    episode = read_part(recording, width=options.width, max_frames=options.max_frames, stride=options.stride)
    names = cameras_with_depth(recording, episode)
    held = tuple(h for h in options.holdout if h in episode.views and len(names) > 1)
    holdouts: tuple[int | str, ...] = held or tuple(int(h) for h in options.holdout if _is_number(h) and int(h) > 1)
    inputs = tuple(n for n in names if n not in held)
    if not holdouts or not inputs:
        problem, expected = "fits no camera of the recording, and is no number from 2", f"some of {names}, or numbers"
        raise ConfigError(problem, file=recording.path, field="holdout", found=options.holdout, expected=expected)
    return Source(name, episode, inputs, holdouts)


def _simulated(task: str, options: EvalReconstructOptions) -> Iterator[Source]:
    """Episodes of one task; the simulator is kept between them, since its OpenGL context takes long to make."""
    cameras = (*options.inputs, *options.novel)
    with open_sim(task, seed=options.seeds[0], size=(options.size, options.size), cameras=cameras) as sim:
        for seed in seed_range(options.seeds):
            noise = rig.NOISE[seed % len(rig.NOISE)]
            episode = record_with(sim, seed=seed, noise=noise, num_frames=options.frames)
            yield Source(f"{task}/{seed}", episode, tuple(options.inputs), tuple(options.novel))


def _print_scored(name: str, *, done: int, total: int) -> None:
    """A line when a source is done."""
    if done == total:
        print(f"scene4d: scored {total} views of {name}", file=sys.stderr, flush=True)


def text_of(result: Mapping[str, Any]) -> str:
    """The table for people: every source and the mean, every method, the paired differences, motion and bars."""
    lines: list[str] = []
    width = max([len(m) for m in result["mean"]] + [len("three_nearest")]) + 2
    shown = [key for key in HEADINGS if any(r.get(key) is not None for r in result["mean"].values())]
    blocks = dict(result["sources"])
    if len(blocks) > 1:
        blocks["mean over sources"] = {"methods": result["mean"], **{key: result[key] for key in ("paired", "motion")}}
    for name, block in blocks.items():
        lines += ["", name]
        lines.append(" " * width + "".join(f"{HEADINGS[key]:>16}" for key in shown))
        for method, values in block["methods"].items():
            lines.append(f"{method:<{width}}" + "".join(f"{_number(key, values.get(key)):>16}" for key in shown))
        for method, values in block["paired"].items():
            lines.append(f"{'- ' + method:<{width}}" + "".join(f"{_paired(key, values.get(key)):>16}" for key in shown))
        for steps, motion in (block["motion"] or {}).items():
            cells = (f"{key} {value:.5g}" for key, value in motion.items() if value is not None)
            lines.append(f"motion, {steps} steps: " + ", ".join(cells))
    for what, why in result["left_out"].items():
        lines.append(f"left out: {what}: {why}")
    for name, bar in result["bars"].items():
        lines.append(f"bar {name}: {bar['value']:.5g} against {bar['bar']:g}: {'met' if bar['met'] else 'not met'}")
    return "\n".join(lines)


def _number(key: str, value: float | None) -> str:
    return "-" if value is None else f"{value:.{DIGITS.get(key, 2)}f}"


def _paired(key: str, value: dict[str, Any] | None) -> str:
    if value is None:
        return "-"
    digits = DIGITS.get(key, 2)
    spread = "" if value["se"] is None else f"+-{value['se']:.{digits}f}"
    return f"{value['mean']:+.{digits}f}{spread}"
