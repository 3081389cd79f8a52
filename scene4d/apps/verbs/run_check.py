"""`scene4d check`: what a recording is, what is in it, what is wrong with it, and how to mend it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from scene4d.apps.terminal.progress import counter_shown
from scene4d.apps.verbs.options.recordings import CheckOptions
from scene4d.data.detect import open_recordings
from scene4d.data.diagnose.calibration.calibration_check import CalibrationReport, check_calibration
from scene4d.data.diagnose.calibration.sample import read_sample
from scene4d.data.diagnose.finding import Finding, finding_of
from scene4d.data.diagnose.inspect import GUESSED, describe, ledger_findings, read_through, sample_findings
from scene4d.data.ledger import left_out
from scene4d.errors import CalibrationError, Scene4DError
from scene4d.types import Recording

GUESSES: tuple[dict[str, Any], ...] = ({"fov_deg": 60.0}, {"fit": "crop"}, {"fov_deg": 60.0, "fit": "crop"})

MAX_COLUMNS = 16


def run_check(options: CheckOptions) -> dict[str, Any]:
    """Print a report a person can read; return the same.

    Returns {source, format, recordings: [...], findings: [{kind, camera, field, found, expected, fix, mendable, score,
    recordings}], ok}. recordings holds those looked into, as `describe` has them (left_out: what the reader did not
    use), with {calibration: {pairs, agreement, median_mm, untested}} where asked for; num_recordings counts all. ok:
    nothing was found.

    Raises:
        DataFormatError: there is no such file or folder.
    """
    recordings, refused = _opened(options)
    findings: dict[Finding, list[int]] = {f: [] for f in refused}
    for k, recording in enumerate(recordings):
        _note(findings, ledger_findings(left_out(recording.info)), index=k)
    described: list[dict[str, Any]] = []
    for k in _spread(len(recordings), options.samples):
        facts, found = _looked_into(recordings[k], calibration=options.calibration)
        described.append({"index": k, **facts})
        _note(findings, found, index=k)
    if options.deep:
        _decode(findings, recordings)
    form = _format(recordings[0]) if recordings else None
    print(_text(options.source, form, recordings=recordings, described=described, findings=findings))
    what = {"source": str(options.source), "format": form, "num_recordings": len(recordings)}
    listed = [{**f.as_dict(), "recordings": where} for f, where in findings.items()]
    return {**what, "recordings": described, "findings": listed, "ok": not findings}


def _note(findings: dict[Finding, list[int]], found: Sequence[Finding], *, index: int) -> None:
    """Note which recordings a finding was made in."""
    for finding in found:
        where = findings.setdefault(finding, [])
        if index not in where:
            where.append(index)


def _opened(options: CheckOptions) -> tuple[Sequence[Recording], list[Finding]]:
    """The recordings, and what their reader refused; refused calibration is guessed, so that the rest can be seen."""
    try:
        return open_recordings(options.source, cameras=options.cameras), []
    except Scene4DError as error:
        if not options.source.exists():
            raise
        findings = [finding_of(error)]
        if isinstance(error, CalibrationError):
            for guess in GUESSES:
                try:
                    return open_recordings(options.source, cameras=options.cameras, **guess), findings
                except Scene4DError:
                    continue
        return [], findings


def _looked_into(recording: Recording, *, calibration: bool) -> tuple[dict[str, Any], list[Finding]]:
    try:
        sample = read_sample(recording)
    except Scene4DError as error:
        facts = {"path": str(recording.path), "num_frames": recording.num_frames, "cameras": {}}
        return facts, [finding_of(error)]
    facts, findings = describe(sample), sample_findings(sample)
    # A guess is known to be wrong: nothing is learnt from testing it.
    if calibration and GUESSED not in recording.info:
        report = check_calibration(sample)
        findings += report.findings
        facts["calibration"] = _figures(report)
    return facts, findings


def _figures(report: CalibrationReport) -> dict[str, Any]:
    rounded = lambda value, digits: None if value is None else round(value, digits)
    return {
        "pairs": report.num_pairs,
        "agreement": rounded(report.agreement, 3),
        "median_mm": rounded(report.median_mm, 2),
        "untested": report.untested,
    }


def _decode(findings: dict[Finding, list[int]], recordings: Sequence[Recording]) -> None:
    """Decode everything."""
    with counter_shown("decoding") as count:
        for k, recording in enumerate(recordings):
            try:
                for found in read_through(recording):
                    _note(findings, found, index=k)
            except Scene4DError as error:
                _note(findings, [finding_of(error)], index=k)
            count(k + 1, len(recordings))


def _format(recording: Recording) -> str:
    """What it lies in; a converted recording's own `source` says where it comes from."""
    from scene4d.data.formats.lerobot.lerobot import LeRobotRecording

    if isinstance(recording, LeRobotRecording):
        return f"LeRobot {recording.info['version']}"
    return str(recording.info.get("source") or type(recording).__name__)


def _spread(count: int, most: int) -> list[int]:
    if count <= most:
        return list(range(count))
    return sorted({round(i * (count - 1) / max(1, most - 1)) for i in range(most)})


def _text(
    source: Path, form: str | None, *, recordings: Sequence[Recording], described: list[dict[str, Any]],
    findings: Mapping[Finding, Sequence[int]],
) -> str:  # fmt: skip
    frames = sum(r.num_frames for r in recordings)
    lines = [f"{source}: {form or 'cannot be read'}, {len(recordings)} recordings, {frames} frames"]
    for facts in described:
        lines += _facts_in_lines(facts)
    lines.append("")
    for f, where in findings.items():
        inside = f" in recording {', '.join(map(str, where[:8]))}{' ...' if len(where) > 8 else ''}" if where else ""
        camera = f.camera or ("all cameras" if f.mends else "")
        lines.append(f"WRONG {f.kind}: " + " ".join(part for part in (camera, f.field) if part) + inside)
        lines.append(f"      found     {f.found}")
        lines += [f"      expected  {f.expected}"] if f.expected else []
        lines += [f"      score     {f.score[0]:.2f} as it is, {f.score[1]:.2f} mended"] if f.score else []
        command = f"scene4d convert {source} -o COPY --fix {' '.join(map(str, f.mends))}" if f.mends else f.fix
        lines += [f"      mend      {command}"] if command else []
    return "\n".join([*lines, "nothing wrong was found" if not findings else f"findings: {len(findings)}"])


def _facts_in_lines(facts: dict[str, Any]) -> list[str]:
    lines = ["", f"recording {facts['index']}: {facts['path']}"]
    if "fps" not in facts:
        return [*lines, f"  {facts['num_frames']} frames, which cannot be read"]
    task = f", task {facts['task'].splitlines()[0]!r}" if facts["task"] else ""
    lines.append(f"  {facts['num_frames']} frames at {facts['fps']:g} a second ({facts['times']}){task}")
    lines.append(f"  units {facts['units']}; up in the world is {facts['up'] or 'not clear'}")
    for name, c in facts["cameras"].items():
        depth = "no depth"
        if c["depth"]:
            near, median, far = c["depth_m"] or (0, 0, 0)
            depth = f"depth on {100 * c['depth_coverage']:.0f} %, {near:g} .. {median:g} .. {far:g} m"
        moves = "moves" if c["moving"] else "stands still"
        lines.append(f"  camera {name}: {c['width']}x{c['height']}, {c['fov_deg']:g} deg, {moves}, {depth}")
    for entry in facts["left_out"]:
        named = ", ".join(entry["names"][:8]) + (" ..." if len(entry["names"]) > 8 else "")
        lines.append(f"  not used: {entry['field']} {named} ({entry['reason']})")
    for what in ("actions", "proprio"):
        for column in facts[what][:MAX_COLUMNS]:
            unit = f" {column['unit']}" if column["unit"] else ""
            lines.append(f"  {what} {column['name']}: {column['min']:g} .. {column['max']:g}{unit}")
        more = len(facts[what]) - MAX_COLUMNS
        lines += [f"  and {more} more {what}"] if more > 0 else []
    if "calibration" in facts:
        c = facts["calibration"]
        if c["untested"]:
            lines.append(f"  calibration: not tested ({c['untested']})")
        else:
            off = "" if c["median_mm"] is None else f", median {c['median_mm']:g} mm apart"
            lines.append(f"  calibration: {c['pairs']} pairs of views agree on {100 * c['agreement']:.0f} %{off}")
    return lines
