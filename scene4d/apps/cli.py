"""The command line: `scene4d VERB ...`. Results are short tables on a terminal, one JSON line elsewhere or with --json.

Progress and failures go to standard error; a failure is one line and an exit code. JSON knows no NaN and no Infinity: a
number that is not finite is null: unknown.
"""

from __future__ import annotations

import importlib
import json
import math
import os
import signal
import sys
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from scene4d.apps.terminal.arguments import parse_options
from scene4d.apps.terminal.tables import result_table
from scene4d.disk_errors import shortage, writing
from scene4d.errors import EXIT_INPUT, EXIT_INTERNAL, ConfigError, ResourceError, Scene4DError
from scene4d.unreadable import naming_pointers


@dataclass(frozen=True)
class Verb:
    """A verb, such as "eval plan": `run_eval_plan` of apps/verbs/evaluate_plan.py, its `EvalPlanOptions`, its help.

    A module whose result needs more than a table of its keys has `text_of(result)`, which people read.

    Options are imported when the verb is named, its module (and with it torch) only when they are right.
    """

    name: str
    options: str
    """Module of apps/verbs/options that holds its options."""
    help: str

    @property
    def run(self) -> str:
        """Name of the function that runs it, in a module of that name or, of eval verbs, in evaluate_NAME."""
        return f"run_{self.name.replace(' ', '_')}"

    def options_class(self) -> type[Any]:
        """The dataclass of its options."""
        module = importlib.import_module(f"scene4d.apps.verbs.options.{self.options}")
        return getattr(module, f"{self.name.title().replace(' ', '')}Options")

    def runner(self) -> Callable[[Any], dict[str, Any]]:
        """What takes the options and returns what the last line shows."""
        return getattr(self._module(), self.run)

    def text_of(self, result: Mapping[str, Any]) -> str:
        """A result as people read it."""
        return getattr(self._module(), "text_of", result_table)(result)

    def _module(self) -> ModuleType:
        module = self.run.replace("run_eval_", "evaluate_")
        return importlib.import_module(f"scene4d.apps.verbs.{module}")


_VERBS = (
    Verb("demo", "agents", "recorded video to forecast, novel views, flow and actions, on the built-in episode"),
    Verb("record", "recordings", "record Meta-World episodes with RGB-D cameras, poses and exact motion"),
    Verb("reconstruct", "scenes", "recorded RGB-D video to a 4D scene (.s4d)"),
    Verb("check", "recordings", "what a recording is, what is in it, what is wrong with it, and how to mend it"),
    Verb("convert", "recordings", "any recording to LeRobot v3 with meta/cameras.json, mended where asked"),
    Verb("repair", "recordings", "keep what is whole of a LeRobot data set or MCAP file that was cut short"),
    Verb("train", "training", "record, train and export a world model and its policy from one TOML file"),
    Verb("forecast", "agents", "predict how a scene evolves under the robot's actions"),
    Verb("render", "scenes", "render colour, depth or flow of a scene from any camera"),
    Verb("export", "scenes", "a scene or splats to .ply, points, .npz flow, depth .png, .mp4 or a .glb / .obj mesh"),
    Verb("act", "agents", "the next actions for a task, with names and units"),
    Verb("view", "scenes", "a scene in the browser: time, cameras, flow, the agent at work in it"),
    Verb("serve", "agents", "the agent behind HTTP on this machine, for robots and simulators"),
    Verb("eval", "", "measure: eval reconstruct | eval forecast | eval policy | eval plan"),
    Verb("doctor", "agents", "what this machine has, and what is missing for which verb"),
    Verb(
        "eval reconstruct",
        "evaluation",
        "reconstruction quality on held-out views, motion and identity beside the baselines",
    ),
    Verb("eval forecast", "evaluation", "forecast quality beside copying, constant velocity and exact motion"),
    Verb("eval policy", "evaluation", "success of the action head in closed loop"),
    Verb("eval plan", "evaluation", "success of planning to goal scenes, without a policy"),
)
VERBS = {verb.name: verb for verb in _VERBS if " " not in verb.name}
EVAL_VERBS = {verb.name.removeprefix("eval "): verb for verb in _VERBS if " " in verb.name}


def main(argv: list[str] | None = None) -> int:
    """Run one verb; returns its exit code.

    0 done, 2 usage, 3 bad input (also when `check` finds it so), 4 resource, 5 numeric, 6 internal, 130 interrupted.
    """
    # Threads that wait sleep: spinning, the pools of torch and of the kernels take six times the time of busy cores.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    arguments = list(sys.argv[1:] if argv is None else argv)
    as_json = "--json-errors" in arguments
    for_people = "--json" not in arguments and sys.stdout.isatty()
    arguments = [a for a in arguments if a not in ("--json", "--json-errors")]
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        found = _find(arguments)
        if found is None:
            return 0  # what was asked for was help
        verb, rest = found
        options = parse_options(verb.options_class(), rest, prog=f"scene4d {verb.name}", description=verb.help)
        result = naming_pointers()(verb.runner())(options)
        with writing("standard output"):
            print(verb.text_of(result) if for_people else json_line(result), flush=True)
        return EXIT_INPUT if result.get("ok") is False else 0
    except Scene4DError as error:
        return _report(shortage(error, file=error.file) or error, as_json)
    except KeyboardInterrupt as stop:
        print("scene4d: interrupted; nothing half-written was left", file=sys.stderr)
        return 143 if stop.args == ("SIGTERM",) else 130
    except BrokenPipeError:
        return 0
    except Exception as error:
        if _is_lack_of_memory(error):
            return _report(ResourceError("out of memory", fix="use a smaller --size, fewer frames or cameras"), as_json)
        short = shortage(error, file=getattr(error, "filename", None))
        if short is not None:
            return _report(short, as_json)
        traceback.print_exc()
        failure = f"{type(error).__name__}: {error}"
        print(f"scene4d: internal error: {failure}; please report it with the lines above", file=sys.stderr)
        return EXIT_INTERNAL


def _report(error: Scene4DError, as_json: bool) -> int:
    """Print an error; returns its exit code."""
    line = json_line({"error": error.as_dict()}, unknown=str) if as_json else f"scene4d: {error.line()}"
    print(line, file=sys.stderr)
    return error.exit_code


def _is_lack_of_memory(error: Exception) -> bool:
    """Python's own, or torch's, which only its message shows: of the CPU's memory in others than of the GPU's."""
    words = ("allocate memory", "out of memory")
    return isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and any(w in str(error) for w in words))


def json_line(value: Any, *, unknown: Callable[[float], Any] = lambda _: None) -> str:
    """A value as one line of JSON that any reader takes; numbers that are not finite become what `unknown` gives."""

    def plain(x: Any) -> Any:
        if isinstance(x, float):
            return x if math.isfinite(x) else unknown(x)
        if isinstance(x, Mapping):
            return {key: plain(each) for key, each in x.items()}
        return [plain(each) for each in x] if isinstance(x, list | tuple) else x

    return json.dumps(plain(value), allow_nan=False)


def _find(arguments: list[str]) -> tuple[Verb, list[str]] | None:
    """The verb asked for; prints help and returns None when there is nothing to run."""
    first = arguments[0] if arguments else "--help"
    if first == "--version":
        from scene4d import __version__

        print(f"scene4d {__version__}")
        return None
    if first == "eval":
        second = arguments[1] if len(arguments) > 1 else "--help"
        if second in EVAL_VERBS:
            return EVAL_VERBS[second], arguments[2:]
        return _usage(EVAL_VERBS, prefix="eval ", asked=second)
    if first in VERBS:
        return VERBS[first], arguments[1:]
    return _usage(VERBS, prefix="", asked=first)


def _usage(verbs: dict[str, Verb], *, prefix: str, asked: str) -> None:
    lines = [f"usage: scene4d {prefix}VERB ...   (scene4d {prefix}VERB --help for its options)", ""]
    lines += [f"  {prefix}{name:<12} {verb.help}" for name, verb in verbs.items()]
    lines += ["", "  --json anywhere prints the result as one JSON line, as it is where output is no terminal"]
    lines += ["  --json-errors anywhere prints a failure as one JSON object on standard error"]
    lines += [] if prefix else ["  --version prints which one this is"]
    if asked not in ("-h", "--help"):
        fix = f"see: scene4d {prefix}--help"
        raise ConfigError("is no verb", field="VERB", found=asked, expected=", ".join(verbs), fix=fix)
    print("\n".join(lines))


def _interrupt(signum: int, frame: object) -> None:
    raise KeyboardInterrupt("SIGTERM")


if __name__ == "__main__":
    sys.exit(main())
