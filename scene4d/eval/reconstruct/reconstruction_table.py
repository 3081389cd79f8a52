"""One table for reconstructions: what was held out, every method on the same views, motion and identity, the bars."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from scene4d.errors import ConfigError, EnvError
from scene4d.eval.metrics.paired import mean_of, mean_scores, paired_tables
from scene4d.eval.metrics.perceptual import Perceptual, find_lpips
from scene4d.eval.metrics.view_scores import KEYS, covered_pixels, frame_of_case, moved_since_start, view_scores
from scene4d.eval.reconstruct.scene_motion import MotionEvalConfig, motion_scores
from scene4d.eval.reconstruct.score_reconstruction import (
    HoldoutCase,
    holdout_cases,
    lift_nearest,
    split_frames,
    three_nearest,
)
from scene4d.eval.reconstruct.tsdf_baseline import TsdfField
from scene4d.lift.reconstruct import ReconstructConfig, reconstruct
from scene4d.render.render import render
from scene4d.scene import Scene4D
from scene4d.types import Cameras, Episode, Frames

OURS = "ours"
MAX_COVERING = 40  # frames that are asked whether they saw a pixel
Rebuild = Callable[[Episode, Sequence[str]], Scene4D]
Draw = Callable[[HoldoutCase], Frames]


@dataclass(frozen=True)
class Source:
    """A recording in memory: which cameras are given to the methods, and what is held out of it.

    holdouts: names of cameras that are not inputs, and numbers n for every n-th instant of the inputs.
    """

    name: str
    episode: Episode
    inputs: tuple[str, ...]
    holdouts: tuple[int | str, ...]


@dataclass(frozen=True)
class ReconstructEvalConfig:
    """What is compared and scored. Changing a number here changes every row alike."""

    view_every: int = 1
    """Every how many-th view of a held-out camera is rendered and scored."""
    motion: MotionEvalConfig = field(default_factory=MotionEvalConfig)
    """Which surface points are asked where they went (sources with exact motion)."""
    instants: bool = True
    """Render also what one instant alone, and the first instant alone, give (sources of several cameras)."""
    tsdf: bool = True
    """Render also a ray-cast TSDF, where Open3D is installed."""
    quick: ReconstructConfig = field(default_factory=ReconstructConfig)
    """How single instants are fused, and scenes too unless `rebuild` is given."""


def evaluate_reconstruction(
    sources: Iterable[Source],
    *,
    config: ReconstructEvalConfig | None = None,
    rebuild: Rebuild | None = None,
    progress: Callable[..., None] | None = None,
) -> dict[str, Any]:
    """Reconstruct every source from its inputs and score what was held out, beside the baselines on the same views.

    Baselines: `three_nearest` and `lift` as in `holdout_report`; `tsdf`, Open3D's field of the training frames of the
    view (all of them for one camera); with several cameras also `instant`, our own reconstruction of the view's instant
    alone, and `first`, that of the first instant shown for ever.

    Args:
        sources: read one at a time, so a generator holds one recording in memory.
        rebuild: (episode with the inputs only, input names) -> scene; by default `lift.reconstruct`.
        progress: called with (source name, done=views so far, total=views).
    Returns:
        {sources: {name: {num_views, seconds_per_frame, num_gaussians, methods: {ours, three_nearest, ...: {KEYS}},
        paired: {baseline: {key: {mean, se, num}}}, motion: {"1": {...}} or None}}, mean: {method: {KEYS}} over
        sources, paired: over all views, motion: mean over sources, bars: {name: {value, bar, met}}, left_out: {what:
        why}}, JSON-ready.
    """
    config = config or ReconstructEvalConfig()
    rebuild = rebuild or (lambda episode, names: reconstruct(episode, cameras=names, config=config.quick))
    left_out: dict[str, str] = {}
    perceptual, why = find_lpips()
    if perceptual is None:
        left_out["lpips"] = why
    results: dict[str, dict[str, Any]] = {}
    for source in sources:
        report = None if progress is None else functools.partial(progress, source.name)
        results[source.name] = _SourceEvaluation(source, config, rebuild, perceptual, left_out).result(report)
    if not results:
        raise ConfigError("names nothing", field="sources", fix="name a folder, or Meta-World tasks with --tasks")
    return {**summary(results), "left_out": left_out}


@dataclass
class _SourceEvaluation:
    """One source: its scenes, its held-out views, every method's figures on them."""

    source: Source
    config: ReconstructEvalConfig
    rebuild: Rebuild
    perceptual: Perceptual | None
    left_out: dict[str, str]

    def __post_init__(self) -> None:
        source = self.source
        self.given = source.episode.replace(views={n: source.episode.views[n] for n in source.inputs})
        self.several = len(source.inputs) > 1
        self.seconds, self.frames, self.num_gaussians = 0.0, 0, 0
        self.whole: Scene4D | None = None
        self._field: TsdfField | None = None

    def result(self, progress: Callable[..., None] | None) -> dict[str, Any]:
        """The entry of this source in the table; `views` holds every figure of every view."""
        source, config = self.source, self.config
        plans = [(holdout, self._cases(holdout)) for holdout in source.holdouts]
        total, done = sum(len(cases) for _, cases in plans), 0
        tables: dict[str, dict[str, Any]] = {}
        with torch.no_grad():
            for holdout, cases in plans:
                methods = self._methods(self._scene(holdout))
                for case in cases:
                    for method, scores in self._scores(case, methods).items():
                        tables.setdefault(method, {})[case.name] = scores
                    done += 1
                    if progress is not None:
                        progress(done=done, total=total)
        motion = None
        if source.episode.segment_poses is not None:
            motion = motion_scores(self._scene(""), source.episode, cameras=source.inputs, config=config.motion)
        return {
            "inputs": list(source.inputs),
            "holdouts": list(source.holdouts),
            "num_views": total,
            "seconds_per_frame": self.seconds / max(1, self.frames),
            "num_gaussians": self.num_gaussians,
            "methods": {method: mean_scores(views, keys=KEYS) for method, views in tables.items()},
            "paired": paired_tables(tables, first=OURS, keys=KEYS),
            "motion": motion,
            "views": tables,
        }

    def _cases(self, holdout: int | str) -> list[HoldoutCase]:
        if not isinstance(holdout, str):
            return holdout_cases(self.given, holdout=holdout)
        views = {**self.given.views, holdout: self.source.episode.views[holdout]}
        return holdout_cases(self.given.replace(views=views), holdout=holdout)[:: self.config.view_every]

    def _scene(self, holdout: int | str) -> Scene4D:
        """The scene of all inputs, or of the instants that a number leaves."""
        if isinstance(holdout, str) and self.whole is not None:
            return self.whole
        training = self.given
        if not isinstance(holdout, str):
            index = torch.tensor(split_frames(len(self.given.times), every=holdout)[0])
            training = self.given.map(lambda x: x[index])
        start = time.monotonic()
        with torch.enable_grad():
            scene = self.rebuild(training, self.source.inputs)
        self.seconds, self.frames = self.seconds + time.monotonic() - start, self.frames + len(training.times)
        self.num_gaussians = scene.base.num_gaussians
        self.whole = scene if isinstance(holdout, str) else self.whole
        return scene

    def _methods(self, scene: Scene4D) -> dict[str, Draw]:
        methods: dict[str, Draw] = {
            OURS: lambda case: render(scene.at(case.time), case.target.cameras),
            "three_nearest": lambda case: three_nearest(case.training, case.target.cameras),
            "lift": lambda case: lift_nearest(case.training, case.target.cameras),
        }
        if self.config.tsdf and "tsdf" not in self.left_out:
            self._field = None
            methods["tsdf"] = self._tsdf
        if self.several and self.config.instants:
            methods["instant"] = lambda case: _render_alone(self._alone(case), case.target.cameras)
            methods["first"] = lambda case: _render_alone(self._first, case.target.cameras)
        return methods

    def _scores(self, case: HoldoutCase, methods: Mapping[str, Draw]) -> dict[str, dict[str, float | None]]:
        covered = covered_pixels(case.target, self._covering(case)) if case.target.depth is not None else None
        camera, index = frame_of_case(self.source.episode, case)
        moving = moved_since_start(self.source.episode, camera, index=index)
        scores = {}
        for method, draw in methods.items():
            try:
                rendered = draw(case)
            except EnvError as error:
                self.left_out[method] = error.problem if error.found is None else f"{error.problem}: {error.found}"
                continue
            perceptual = self.perceptual
            scores[method] = view_scores(rendered, case.target, covered=covered, moving=moving, perceptual=perceptual)
        return scores

    def _covering(self, case: HoldoutCase) -> Frames:
        """Frames that could have shown a held-out view's surfaces: those it is rendered from, and some of all times."""
        if not self.several:
            return case.training
        stacked = self.given.stacked(self.source.inputs).map(lambda x: x.flatten(0, 1))
        step = max(1, stacked.batch_shape[0] // MAX_COVERING)
        parts = (case.training, stacked.map(lambda x: x[::step]))
        return Frames.cat([part.replace(extras={}, alpha=None, depth=part.known_depth) for part in parts])

    def _tsdf(self, case: HoldoutCase) -> Frames:
        if self.several:
            return TsdfField(case.training).cast(case.target.cameras)
        self._field = self._field or TsdfField(case.training)
        return self._field.cast(case.target.cameras)

    def _alone(self, case: HoldoutCase) -> Scene4D:
        """Our own reconstruction of what was seen at a case's instant (the nearest given one) and nothing else."""
        index = int((self.given.times - case.time).abs().argmin())
        if case.training.batch_shape[0] > len(self.source.inputs):  # instants are held out: take the one before
            index = max(0, index - 1)
        return self._one_instant(index)

    @functools.cached_property
    def _first(self) -> Scene4D:
        return self._one_instant(0)

    def _one_instant(self, index: int) -> Scene4D:
        alone = self.given.map(lambda x: x[index : index + 1])
        with torch.enable_grad():
            return reconstruct(alone, cameras=self.source.inputs, config=self.config.quick)


def _render_alone(scene: Scene4D, camera: Cameras) -> Frames:
    return render(scene.at(float(scene.times[0])), camera)


def summary(results: Mapping[str, dict[str, Any]]) -> dict[str, Any]:
    """The table over sources: means, paired differences over all their views, motion, and the bars."""
    methods = list(dict.fromkeys(m for r in results.values() for m in r["methods"]))
    pooled = {
        m: {f"{name}/{view}": s for name, r in results.items() for view, s in r["views"].get(m, {}).items()}
        for m in methods
    }
    means = {m: mean_scores({name: r["methods"].get(m, {}) for name, r in results.items()}, keys=KEYS) for m in methods}
    return {
        "sources": {name: {k: v for k, v in r.items() if k != "views"} for name, r in results.items()},
        "mean": means,
        "paired": paired_tables(pooled, first=OURS, keys=KEYS),
        "motion": _mean_motion(results),
        "bars": bars(results),
    }


def _mean_motion(results: Mapping[str, dict[str, Any]]) -> dict[str, Any] | None:
    motions = [r["motion"] for r in results.values() if r["motion"]]
    if not motions:
        return None
    return {step: {key: mean_of([m[step][key] for m in motions]) for key in motions[0][step]} for step in motions[0]}


def bars(results: Mapping[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """What the project asks of a reconstruction, where the sources can say: {name: {value, bar, met}}."""
    out: dict[str, dict[str, Any]] = {}

    def ask(name: str, value: float | None, *, at_least: float | None = None, at_most: float | None = None) -> None:
        if value is not None:
            met = (at_least is None or value >= at_least) and (at_most is None or value <= at_most)
            out[name] = {"value": value, "bar": at_least if at_least is not None else at_most, "met": met}

    motion = _mean_motion(results) or {}
    one, far = motion.get("1", {}), motion.get("8", {})
    ask("flow_epe_moving_1_m", one.get("flow_epe_moving"), at_most=0.005)
    ask("flow_epe_static_1_m", one.get("flow_epe_static"), at_most=0.001)
    ask("flow_epe_moving_8_m", far.get("flow_epe_moving"), at_most=0.02)
    ask("identity_8", far.get("identity"), at_least=0.95)
    recorded = [r for r in results.values() if not r["motion"]]
    single = [r for r in recorded if len(r["inputs"]) == 1]
    for key, bar in (("psnr", 1.5), ("psnr_sensor", 0.7)):
        ask(f"{key}_over_best_baseline", mean_of([_over_best(r, key) for r in single]), at_least=bar)
    several = [r["paired"]["instant"] for r in recorded if "instant" in r["paired"]]
    for key, bar in (("psnr_moving", 3.0), ("psnr_covered", 2.0)):
        ask(f"{key}_over_instant", mean_of([p[key]["mean"] for p in several if p[key]]), at_least=bar)
    return out


def _over_best(result: dict[str, Any], key: str) -> float | None:
    """Ours over the better of `three_nearest` and `lift`."""
    ours, *others = (result["methods"][m][key] for m in (OURS, "three_nearest", "lift"))
    found = [x for x in others if x is not None]
    return None if ours is None or not found else ours - max(found)
