"""`scene4d view`: a scene in the browser - time, cameras, flow, uncertainty, and the agent at work in it."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from scene4d.apps.agent.server.access import access_to
from scene4d.apps.agent.task_names import task_from_text
from scene4d.apps.compose.models import Models, models_once
from scene4d.apps.compose.scene_files import open_scene
from scene4d.apps.compose.scene_start import start_of_file
from scene4d.apps.verbs.options.scenes import ViewOptions
from scene4d.apps.viewer.guarded_server import start_viser, stop_viser
from scene4d.apps.viewer.live_forecast import roll_forward
from scene4d.apps.viewer.panel import Panel, PanelConfig, Rollout
from scene4d.errors import DataFormatError
from scene4d.gaussians.s4d.s4d import S4DFile
from scene4d.scene import Scene4D
from scene4d.world.observation import Observation


@dataclass(frozen=True)
class Opened:
    """A viewer that runs: where, and what it shows."""

    url: str
    server: Any
    panel: Panel
    facts: dict[str, Any]
    """Of splats that came in, for the verb's result."""


def run_view(options: ViewOptions) -> dict[str, Any]:
    """Show until interrupted (or `seconds` are over); returns {url, instants, observed, predicted, seconds}.

    Of splats {mended, left_out} too: what was mended, and what was not read, or otherwise.

    Raises:
        EnvError: viser is not installed. DataFormatError: the scene is broken, empty or a batch, or there is a --task
        and no robot state. ConfigError: an option is out of range, or nothing was trained for the --task.
        CheckpointError: the weights hold no action head. What stops the agent is shown on the page.
        SecurityError: --host is reached from other machines without --allow-remote.
    """
    start = time.monotonic()
    with open_view(options) as opened:
        print(f"scene4d: {opened.url} (Ctrl-C stops)", flush=True)
        with contextlib.suppress(KeyboardInterrupt):  # how a viewer is meant to end
            if options.task:
                print(f"scene4d: {opened.panel.roll_out(options.task, seed=options.seed)}", flush=True)
            threading.Event().wait(options.seconds)
        instants = opened.panel.instants
    observed = sum(i.observed for i in instants)
    counts = {"instants": len(instants), "observed": observed, "predicted": len(instants) - observed}
    return {"url": opened.url, **counts, "seconds": round(time.monotonic() - start, 1), **opened.facts}


@contextlib.contextmanager
def open_view(options: ViewOptions) -> Iterator[Opened]:
    """A viewer that runs as long as the block; errors as `run_view`."""
    access = access_to(options.host, allow_remote=options.allow_remote)
    opened = open_scene(options.scene)
    scene = opened.scene
    if scene.batch_shape or scene.times.shape[-1] == 0 or scene.base.num_gaussians == 0:
        expected = "one scene, not empty"
        raise DataFormatError("holds nothing to look at", file=options.scene, field="times, means", expected=expected)
    rollout = _rollout(options, opened.file, scene=scene)
    server = start_viser(access, port=options.port, label=f"scene4d {options.scene.name}")
    stop = threading.Event()
    try:
        config = PanelConfig(
            options.max_splats, fps=options.fps, task=options.task, num_steps=options.steps, seed=options.seed
        )
        panel = Panel(server, scene, cameras=opened.cameras, rollout=rollout, config=config)
        player = threading.Thread(target=panel.play, args=(stop,), daemon=True)
        player.start()
        query = "" if access.token is None else f"?token={access.token}"
        yield Opened(url=f"{access.url(server.get_port())}/{query}", server=server, panel=panel, facts=opened.facts())
        stop.set()
        player.join(timeout=2.0)
    finally:
        stop.set()
        stop_viser(server)


def _rollout(options: ViewOptions, file: S4DFile | None, *, scene: Scene4D) -> Rollout | None:
    """The agent's button, where the robot's state is known; models are loaded when it is first pressed."""
    asked = bool(options.task) or options.proprio is not None
    if file is None and asked:
        fix = "give a .s4d, which `scene4d reconstruct` makes of a recording"
        raise DataFormatError("are splats without a robot", file=options.scene, field="task, proprio", fix=fix)
    if file is None or not (asked or file.info.get("proprio") is not None):
        return None

    def begun(task: str) -> tuple[Models, Observation]:
        models = models_once(options.weights)
        name = task_from_text(task, models.tasks)
        return models, start_of_file(models, file, scene=scene, task=name, proprio=options.proprio, goal=options.goal)

    def roll(task: str, *, num_steps: int, seed: int) -> Iterator[Scene4D]:
        models, start = begun(task)
        return roll_forward(models, start, num_steps=num_steps, seed=seed)

    if options.task:
        begun(options.task)  # what is missing or wrong is refused before anything is shown
    return roll
