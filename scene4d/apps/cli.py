"""The command line: `scene4d VERB ...`. Each verb ends with one JSON line, each failure in one line and a code.

JSON knows no NaN and no Infinity: in a verb's last line a number that is not finite is null: unknown.
"""

from __future__ import annotations

import importlib
import json
import math
import signal
import sys
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from scene4d.apps.terminal.arguments import parse_options
from scene4d.errors import EXIT_INPUT, EXIT_INTERNAL, ConfigError, ResourceError, Scene4DError


@dataclass(frozen=True)
class Verb:
    """Where a verb lives: a function `run` of a module of apps/verbs, its options in apps/verbs/options.

    Options are imported when the verb is named, its module (and with it torch) only when they are right.
    """

    module: str
    options: str
    run: str
    help: str

    def options_class(self) -> type[Any]:
        """The dataclass of its options."""
        module, name = self.options.split(".")
        return getattr(importlib.import_module(f"scene4d.apps.verbs.options.{module}"), name)

    def runner(self) -> Callable[[Any], dict[str, Any]]:
        """What takes the options and returns what the last line shows."""
        return getattr(importlib.import_module(f"scene4d.apps.verbs.{self.module}"), self.run)


VERBS = {
    "demo": Verb(
        "run_demo",
        "agents.DemoOptions",
        "run_demo",
        "recorded video to forecast, novel views, flow and actions, on the built-in episode",
    ),
    "record": Verb(
        "run_record",
        "recordings.RecordOptions",
        "run_record",
        "record Meta-World episodes with RGB-D cameras, poses and exact motion",
    ),
    "reconstruct": Verb(
        "run_reconstruct", "scenes.ReconstructOptions", "run_reconstruct", "recorded RGB-D video to a 4D scene (.s4d)"
    ),
    "check": Verb(
        "run_check",
        "recordings.CheckOptions",
        "run_check",
        "what a recording is, what is in it, what is wrong with it, and how to mend it",
    ),
    "convert": Verb(
        "run_convert",
        "recordings.ConvertOptions",
        "run_convert",
        "any recording to LeRobot v3 with meta/cameras.json, mended where asked",
    ),
    "repair": Verb(
        "run_repair",
        "recordings.RepairOptions",
        "run_repair",
        "keep what is whole of a LeRobot data set or MCAP file that was cut short",
    ),
    "train": Verb(
        "run_train",
        "training.TrainOptions",
        "run_train",
        "record, train and export a world model and its policy from one TOML file",
    ),
    "forecast": Verb(
        "run_forecast",
        "agents.ForecastOptions",
        "run_forecast",
        "predict how a scene evolves under the robot's actions",
    ),
    "render": Verb(
        "run_render", "scenes.RenderOptions", "run_render", "render colour, depth or flow of a scene from any camera"
    ),
    "export": Verb(
        "run_export",
        "scenes.ExportOptions",
        "run_export",
        "a scene or splats to .ply, points, .npz flow, depth .png, .mp4 or a .glb / .obj mesh",
    ),
    "act": Verb("run_act", "agents.ActOptions", "run_act", "the next actions for a task, with names and units"),
    "view": Verb(
        "run_view",
        "scenes.ViewOptions",
        "run_view",
        "a scene in the browser: time, cameras, flow, the agent at work in it",
    ),
    "serve": Verb(
        "run_serve",
        "agents.ServeOptions",
        "run_serve",
        "the agent behind HTTP on this machine, for robots and simulators",
    ),
    "eval": Verb("evaluate", "", "", "measure: eval reconstruct | eval forecast | eval policy | eval plan"),
    "doctor": Verb(
        "run_doctor", "agents.DoctorOptions", "run_doctor", "what this machine has, and what is missing for which verb"
    ),
}
EVAL_VERBS = {
    "reconstruct": Verb(
        "evaluate_reconstruct",
        "evaluation.EvalReconstructOptions",
        "run_eval_reconstruct",
        "reconstruction quality on held-out views, motion and identity beside the baselines",
    ),
    "forecast": Verb(
        "evaluate_forecast",
        "evaluation.EvalForecastOptions",
        "run_eval_forecast",
        "forecast quality beside copying, constant velocity and exact motion",
    ),
    "policy": Verb(
        "evaluate_policy",
        "evaluation.EvalPolicyOptions",
        "run_eval_policy",
        "success of the action head in closed loop",
    ),
    "plan": Verb(
        "evaluate_plan",
        "evaluation.EvalPlanOptions",
        "run_eval_plan",
        "success of planning to goal scenes, without a policy",
    ),
}


def main(argv: list[str] | None = None) -> int:
    """Run one verb; returns its exit code.

    0 done, 2 usage, 3 bad input (also when `check` finds it so), 4 resource, 5 numeric, 6 internal, 130 interrupted.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    as_json = "--json-errors" in arguments
    arguments = [a for a in arguments if a != "--json-errors"]
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        found = _find(arguments)
        if found is None:
            return 0  # what was asked for was help
        verb, name, rest = found
        result = _run(verb, name=name, arguments=rest)
        print(json_line(result), flush=True)
        return EXIT_INPUT if result.get("ok") is False else 0
    except Scene4DError as error:
        return _report(error, as_json)
    except (KeyboardInterrupt, SystemExit) as stop:
        if isinstance(stop, SystemExit):
            raise
        print("scene4d: interrupted; nothing half-written was left", file=sys.stderr)
        return 143 if stop.args == ("SIGTERM",) else 130
    except BrokenPipeError:
        return 0
    except Exception as error:
        if _is_lack_of_memory(error):
            return _report(ResourceError("out of memory", fix="use a smaller --size, fewer frames or cameras"), as_json)
        traceback.print_exc()
        print(
            f"scene4d: internal error: {type(error).__name__}: {error}; please report it with the lines above",
            file=sys.stderr,
        )
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


def _find(arguments: list[str]) -> tuple[Verb, str, list[str]] | None:
    """The verb asked for; prints help and returns None when there is nothing to run."""
    first = arguments[0] if arguments else "--help"
    if first == "--version":
        from scene4d import __version__

        print(f"scene4d {__version__}")
        return None
    if first == "eval":
        second = arguments[1] if len(arguments) > 1 else "--help"
        if second in EVAL_VERBS:
            return EVAL_VERBS[second], f"eval {second}", arguments[2:]
        return _usage(EVAL_VERBS, prefix="eval ", asked=second)
    if first in VERBS:
        return VERBS[first], first, arguments[1:]
    return _usage(VERBS, prefix="", asked=first)


def _usage(verbs: dict[str, Verb], *, prefix: str, asked: str) -> None:
    wants_help = asked in ("-h", "--help")
    lines = [f"usage: scene4d {prefix}VERB ...   (scene4d {prefix}VERB --help for its options)", ""]
    lines += [f"  {prefix}{name:<12} {verb.help}" for name, verb in verbs.items()]
    lines += ["", "  --json-errors anywhere prints a failure as one JSON object on standard error"]
    lines += [] if prefix else ["  --version prints which one this is"]
    if not wants_help:
        raise ConfigError(
            "is no verb", field=f"{prefix}VERB".split()[-1], found=asked, expected=", ".join(verbs),
            fix=f"see: scene4d {prefix}--help",
        )  # fmt: skip
    print("\n".join(lines))


def _run(verb: Verb, *, name: str, arguments: list[str]) -> dict[str, Any]:
    options = parse_options(verb.options_class(), arguments, prog=f"scene4d {name}", description=verb.help)
    return verb.runner()(options)


def _interrupt(signum: int, frame: object) -> None:
    raise KeyboardInterrupt("SIGTERM")


if __name__ == "__main__":
    sys.exit(main())
