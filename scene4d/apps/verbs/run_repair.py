"""`scene4d repair`: a LeRobot v3 data set or an MCAP file that was cut short, as far as it is whole, in a new place."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from scene4d.apps.terminal.progress import counter_shown
from scene4d.data.diagnose.repair.lerobot_repair import repair_lerobot
from scene4d.data.diagnose.repair.mcap_repair import repair_mcap
from scene4d.errors import ConfigError


@dataclass(frozen=True)
class RepairOptions:
    """Copy the longest run of whole episodes, or all messages before the cut; the input is only read."""

    source: tyro.conf.Positional[Path]
    """Folder of the data set (the one that holds meta/, data/ and videos/), or an .mcap file."""
    output: Annotated[Path, tyro.conf.arg(aliases=["-o"])]
    """New folder (must not exist or be empty), or new .mcap file."""

    def __post_init__(self) -> None:
        source, output = self.source.resolve(), self.output.resolve()
        if output.is_relative_to(source):
            fix = "name a folder elsewhere: the input is not touched"
            raise ConfigError("lies inside the data set", file=self.output, field="output", fix=fix)


def run_repair(options: RepairOptions) -> dict[str, Any]:
    """Repair; print what was dropped and why; return {source, output, seconds} and what the repair itself returns."""
    start = time.perf_counter()
    if options.source.suffix.lower() == ".mcap":
        with counter_shown("copying messages") as count:
            report = repair_mcap(options.source, options.output, progress=count)
        why = report["reason"] or "nothing was wrong: this is a plain copy"
        print(f"kept {report['messages']} messages of {len(report['topics'])} topics in {options.output}\n{why}")
    else:
        with counter_shown("verifying episodes") as count:
            report = repair_lerobot(options.source, options.output, progress=count)
        print(_text(options, report))
    seconds = round(time.perf_counter() - start, 2)
    return {"source": str(options.source), "output": str(options.output), **report, "seconds": seconds}


def _text(options: RepairOptions, report: dict[str, Any]) -> str:
    lines = [f"kept {report['episodes']} episodes, {report['frames']} frames, in {options.output}"]
    reason = report["reason"]
    if reason is not None:
        lines.append(f"dropped {report['dropped_episodes']} episodes, {report['dropped_frames']} frames:")
        lines.append(f"  episode {reason['episode']}: {reason['file']}: {reason['problem']}")
    lines += [f"cut {file}" + (" (encoded anew)" if file in report["reencoded"] else "") for file in report["cut"]]
    return "\n".join(lines if reason is not None else [*lines, "nothing was wrong: this is a plain copy"])
