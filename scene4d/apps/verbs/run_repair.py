"""`scene4d repair`: a LeRobot v3 data set or an MCAP file that was cut short, as far as it is whole, in a new place."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from scene4d.apps.terminal.progress import counter_shown
from scene4d.apps.verbs.options.recordings import RepairOptions
from scene4d.data.diagnose.repair.lerobot_repair import repair_lerobot
from scene4d.data.diagnose.repair.mcap_repair import repair_mcap
from scene4d.files import sole_writer


@sole_writer
def run_repair(options: RepairOptions) -> dict[str, Any]:
    """Repair; returns {source, output, seconds} and what the repair itself returns."""
    start = time.perf_counter()
    if options.source.suffix.lower() == ".mcap":
        with counter_shown("copying messages") as count:
            report = repair_mcap(options.source, options.output, progress=count)
    else:
        with counter_shown("verifying episodes") as count:
            report = repair_lerobot(options.source, options.output, progress=count)
    seconds = round(time.perf_counter() - start, 2)
    return {"source": str(options.source), "output": str(options.output), **report, "seconds": seconds}


def text_of(report: Mapping[str, Any]) -> str:
    """What was kept, what was dropped, and why."""
    reason, output = report["reason"], report["output"]
    if "messages" in report:
        why = reason or "nothing was wrong: this is a plain copy"
        return f"kept {report['messages']} messages of {len(report['topics'])} topics in {output}\n{why}"
    lines = [f"kept {report['episodes']} episodes, {report['frames']} frames, in {output}"]
    if reason is not None:
        lines.append(f"dropped {report['dropped_episodes']} episodes, {report['dropped_frames']} frames:")
        lines.append(f"  episode {reason['episode']}: {reason['file']}: {reason['problem']}")
    lines += [f"cut {file}" + (" (encoded anew)" if file in report["reencoded"] else "") for file in report["cut"]]
    return "\n".join(lines if reason is not None else [*lines, "nothing was wrong: this is a plain copy"])
