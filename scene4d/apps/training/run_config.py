"""Everything that decides what a training run makes: one TOML, one section a stage."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from scene4d.config import config_from_dict
from scene4d.errors import ConfigError
from scene4d.eval.metrics.seeds import check_training_seeds, check_training_tasks
from scene4d.models.families import FAMILIES
from scene4d.models.gaussian_flow.training.stage_configs import (
    DynamicsStageConfig,
    GaussianFlowSettings,
    VAEStageConfig,
)
from scene4d.models.instants import prepared_instants
from scene4d.models.pixel_transformer.family import PixelsStageConfig
from scene4d.policy.encoders import ActionHeadConfig
from scene4d.policy.head import task_row
from scene4d.policy.learning.demonstrations import PolicyDataConfig
from scene4d.setting_ranges import is_folder_name, shown
from scene4d.sim.rig import FAILURES
from scene4d.sim.tabletop.captions import PREFIX, read_task
from scene4d.sim.viewpoints import drawn_names, unseen_cameras
from scene4d.train.device import Device
from scene4d.train.loop import LoopConfig
from scene4d.train.optim import OptimConfig

LONGEST_EPISODE = 250  # frames, after which the simulator ends it


@dataclass(frozen=True)
class RecordConfig:
    """Which episodes are recorded."""

    sources: tuple[str, ...] = ()
    """Recordings to learn from, as `scene4d check` reads them, instead of episodes recorded in simulation; of the
    settings below only several_robots, size and cameras count then. Depth beyond 6.5 m counts as not measured."""
    tasks: tuple[str, ...] = ("button-press-v3", "door-open-v3", "drawer-open-v3")
    """Tasks: names of Meta-World, or "tabletop/" and what is to be done, such as
    "tabletop/suction/put-red-block-on-blue-plate"."""
    several_robots: bool = False
    """Let episodes be of different robots, of one rate: the weights then know all of them, and refuse others."""
    fine_tune: bool = False
    """Record tasks that are held out too. The weights are then no longer ones that never saw them."""
    episodes: int = 40
    """Episodes of each task."""
    first_seed: int = 0
    """Environment seed of the first episode; the next ones count up."""
    noise: tuple[float, ...] = (0.1, 0.3, 0.5)
    """Deviation of the noise on the expert's actions, taken in turn, so that some episodes fail."""
    failures: tuple[str, ...] = ()
    """What goes wrong on purpose in some episodes, of stops, wrong_place, drops, never_closes, pushes_past, taken in
    turn; each task takes those that fit it."""
    failing_every: int = 4
    """One episode of so many fails on purpose, where failures are named."""
    num_frames: int = 60
    """Frames of an episode with pictures: a window may begin at any of them."""
    num_tail: int = 0
    """Frames after those that are simulated without pictures, which costs little: the futures of the last windows."""
    size: int = 64
    """Pixels a side."""
    cameras: tuple[str, ...] = ("left", "right", "front", "top")
    """Cameras of the rig, those that the models may see first."""
    viewpoints: tuple[int, int] = (0, 0)
    """Inputs and targets among cameras drawn anew for each episode round the workspace: then they are used instead of
    `cameras`. Inputs see it from clearly different sides; 0 0: none."""

    def __post_init__(self) -> None:
        if self.sources:
            return
        if unknown := [kind for kind in self.failures if kind not in FAILURES]:
            expected = ", ".join(FAILURES)
            raise ConfigError("are no failures", field="record.failures", found=", ".join(unknown), expected=expected)
        if self.failing_every < 1:
            found, expected = self.failing_every, ">= 1"
            raise ConfigError("is out of range", field="record.failing_every", found=found, expected=expected)
        num = self.num_frames + self.num_tail
        if self.num_tail < 0 or num > LONGEST_EPISODE:
            field, expected = "record.num_tail", f"num_frames + num_tail at most {LONGEST_EPISODE}"
            raise ConfigError("is out of range", field=field, found=self.num_tail, expected=expected)
        fix = "name others: into these nothing is trained, so that reports can show what was never seen"
        if unseen := [name for name in self.cameras if name in unseen_cameras()]:
            raise ConfigError("are kept for reports", field="record.cameras", found=", ".join(unseen), fix=fix)
        if min(self.viewpoints) < 0 or (self.viewpoints[1] and not self.viewpoints[0]):
            found, expected = list(self.viewpoints), "[inputs, targets], at least one input, or [0, 0]"
            raise ConfigError("are no numbers of cameras", field="record.viewpoints", found=found, expected=expected)
        for name, num in (("tasks", len(self.tasks)), ("episodes", self.episodes), ("noise", len(self.noise))):
            if num < 1:
                raise ConfigError("nothing to record", field=f"record.{name}", found=num, expected="at least 1")
        tables = [read_task(task) for task in self.tasks if task.startswith(PREFIX)]
        robots = {"+".join(table.robots) for table in tables} | {"sawyer" for _ in self.tasks[len(tables) :]}
        if len(robots) > 1 and not self.several_robots:
            found, fix = ", ".join(sorted(robots)), "train on one of them, or set record.several_robots = true"
            raise ConfigError("are of several robots", field="record.tasks", found=found, fix=fix)

    @property
    def camera_names(self) -> tuple[str, ...]:
        """Names of the cameras of an episode, inputs first."""
        return drawn_names(*self.viewpoints) if any(self.viewpoints) and not self.sources else self.cameras


@dataclass(frozen=True)
class CacheConfig:
    """Which moments of the episodes are kept for training."""

    num_inputs: int = 2
    """The first cameras of the recording are what the scene memory sees; the others are targets only."""
    horizon: int = 8
    """Future steps of a window."""
    strides: tuple[int, ...] = (1,)
    """Frames that a step may be, as dynamics.model.strides: the truth is kept at the ends of all of them."""
    num_past: int = 2
    """Frames before the first window of an episode."""
    num_past_actions: int = 8
    """Past actions and robot states of a window, as many as there are."""
    window_stride: int = 4
    """Frames from one window's start to the next."""

    @property
    def num_future(self) -> int:
        """Future frames of a window."""
        return self.horizon * max(self.strides)

    @property
    def instants(self) -> tuple[int, ...]:
        """Frames ahead at which the truth about motion is kept."""
        return prepared_instants(self.horizon, strides=self.strides)


def _check_task_rows(tasks: Sequence[str], *, num_tasks: int) -> None:
    """Refuse tasks that a head could not tell apart: two that are hashed to one row."""
    taken: dict[int, str] = {}
    for task in tasks:
        other = taken.setdefault(task_row(task, num_tasks=num_tasks), task)
        if other != task:
            problem, fix = "share a row of the head's table of tasks", "set policy.model.num_tasks to another number"
            raise ConfigError(problem, field="policy.data.tasks", found=[other, task], fix=fix)


@dataclass(frozen=True)
class PolicyStageConfig:
    """How the action head is trained."""

    model: ActionHeadConfig = field(default_factory=ActionHeadConfig)
    """Sizes."""
    data: PolicyDataConfig = field(default_factory=PolicyDataConfig)
    """Demonstrations."""
    batch_size: int = 48
    """Moments a step."""
    train: LoopConfig = field(default_factory=lambda: LoopConfig(steps=2000, optim=OptimConfig(lr=2e-3)))
    """Steps and optimiser."""

    def __post_init__(self) -> None:
        model, found = self.model, [self.model.num_views, self.model.view_size]
        expected = [len(self.data.input_cameras), self.data.image_size]
        if not model.sees_scene and found != expected:
            problem, field = f"{model.modality} are those of the real cameras", "policy.model.num_views, view_size"
            fix = f"set policy.model.num_views={expected[0]} policy.model.view_size={expected[1]}"
            raise ConfigError(problem, field=field, found=found, expected=expected, fix=fix)
        if model.feature_dim and self.data.num_camera_offsets:
            problem, expected = "cannot be turned with the scene", "0, or policy.data.num_camera_offsets = 0"
            raise ConfigError(problem, field="policy.model.feature_dim", found=model.feature_dim, expected=expected)
        _check_task_rows(self.data.tasks, num_tasks=model.num_tasks)


@dataclass(frozen=True)
class RunConfig:
    """A run from recording to weights."""

    name: str = "run"
    """Names the run's folder."""
    start: str = ""
    """Weights to go on from: a file, or shipped ones by name ("shipped": the default); the models then have its sizes.
    Empty: start from nothing."""
    processes: int = 2
    """Processes that record and build the cache."""
    threads: int = 2
    """Threads of torch while training; results are bit-equal at one number of threads."""
    family: str = "gaussian_flow"
    """Family of world models, a row of `models/families.py`; gaussian_flow is set up by the sections vae and dynamics,
    pixel_transformer by pixels, every other one by settings."""
    settings: Any = None
    """Settings of another family, as its own configuration class has them."""
    device: Device = "auto"
    """Where models are trained; what is recorded and prepared for them is made on the CPU."""
    policy_only: bool = False
    """Train the action head alone, on the world model of `start`."""
    record: RecordConfig = field(default_factory=RecordConfig)
    """Episodes."""
    cache: CacheConfig = field(default_factory=CacheConfig)
    """Windows."""
    vae: VAEStageConfig = field(default_factory=VAEStageConfig)
    """Autoencoder."""
    dynamics: DynamicsStageConfig = field(default_factory=DynamicsStageConfig)
    """World model."""
    policy: PolicyStageConfig = field(default_factory=PolicyStageConfig)
    """Action head."""
    pixels: PixelsStageConfig = field(default_factory=PixelsStageConfig)
    """2D baseline of the evaluation; made only where it is asked for."""

    def __post_init__(self) -> None:
        if not is_folder_name(self.name):
            found, expected = shown(self.name), "the name of a folder, without / and \\"
            raise ConfigError("is no name", field="name", found=found, expected=expected)
        self._check_family()
        if self.policy_only and not self.start:
            raise ConfigError("needs a world model", field="policy_only", fix='name one: start = "shipped"')
        model, cache, num_past = self.dynamics.model, self.cache, self.dynamics.model.proprio.num_past
        if model.horizon != cache.horizon:
            problem, expected = "differs from that of the cached windows", f"cache.horizon = {cache.horizon}"
            raise ConfigError(problem, field="dynamics.model.horizon", found=model.horizon, expected=expected)
        if self.family == "gaussian_flow" and set(model.strides) != set(cache.strides):
            problem, expected = "differ from those of the cached windows", f"cache.strides = {list(cache.strides)}"
            found = list(model.strides)
            raise ConfigError(problem, field="dynamics.model.strides", found=found, expected=expected)
        if num_past != cache.num_past_actions:
            problem = "differs from what the cached windows hold"
            expected = f"cache.num_past_actions = {cache.num_past_actions}"
            raise ConfigError(problem, field="dynamics.model.proprio.num_past", found=num_past, expected=expected)
        num, what = len(self.record.cameras), "record.cameras"
        if self.record.camera_names != self.record.cameras:
            num, what = self.record.viewpoints[0], "inputs in record.viewpoints"
        if not 1 <= cache.num_inputs <= num:
            found, expected = cache.num_inputs, f"1..{num}, the number of {what}"
            raise ConfigError("is no number of cameras", field="cache.num_inputs", found=found, expected=expected)
        if self.dynamics.own_rollout > 0 and model.horizon < 4:
            raise ConfigError("needs a horizon of 4", field="dynamics.own_rollout", found=model.horizon)
        self._check_held_out()
        num, field = self.record.num_frames, "record.num_frames"
        if not self.record.sources and num + self.record.num_tail < self.least_frames:
            expected = f">= {self.least_frames}, with record.num_tail"
            raise ConfigError("is too short for one window", field=field, found=num, expected=expected)
        if not self.record.sources and num <= cache.num_past:
            raise ConfigError("is too short for one window", field=field, found=num, expected=f"> {cache.num_past}")

    def _check_family(self) -> None:
        """The settings become those of the family; refused where there is none of that name, or it has no such ones."""
        if self.family not in FAMILIES:
            expected = ", ".join(FAMILIES)
            raise ConfigError("is no family of world models", field="family", found=self.family, expected=expected)
        kind = FAMILIES[self.family].settings
        if self.family in ("gaussian_flow", "pixel_transformer") and self.settings:
            sections = "vae and dynamics" if self.family == "gaussian_flow" else "pixels"
            fix = f"set up {self.family} in the sections {sections}"
            raise ConfigError("are those of other families", field="settings", fix=fix)
        if self.family not in ("gaussian_flow", "pixel_transformer") and not isinstance(self.settings, kind):
            settings = config_from_dict(self.settings or {}, kind, where="settings")
            object.__setattr__(self, "settings", settings)

    @property
    def family_settings(self) -> Any:
        """The settings of the family, as its `Family.settings` class."""
        if self.family == "gaussian_flow":
            return GaussianFlowSettings(self.vae, self.dynamics)
        return self.pixels if self.family == "pixel_transformer" else self.settings

    def _check_held_out(self) -> None:
        """Nothing is learned from episodes or tasks that results are reported on."""
        if not self.record.sources:
            check_training_seeds(self.record.first_seed, self.record.episodes, field="record.first_seed")
        data = self.policy.data
        check_training_seeds(data.first_seed, data.num_seeds, field="policy.data.first_seed")
        if not self.record.fine_tune:
            fix = "leave them out, or fine-tune knowingly: record.fine_tune = true"
            check_training_tasks(() if self.record.sources else self.record.tasks, field="record.tasks", fix=fix)
            check_training_tasks(data.tasks, field="policy.data.tasks", fix=fix)

    @property
    def least_frames(self) -> int:
        """Frames of an episode that holds one window."""
        return self.cache.num_past + self.cache.num_future + 1
