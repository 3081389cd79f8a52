"""`scene4d check`: what a recording is, what is in it, what is wrong with it, and how to mend it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from scene4d.apps.terminal.check_report import check_report
from scene4d.apps.terminal.progress import counter_shown
from scene4d.apps.verbs.check_splats import check_splats
from scene4d.apps.verbs.options.recordings import CheckOptions
from scene4d.data.detect import open_recordings
from scene4d.data.diagnose.calibration.calibration_check import (
    GOOD_SHARE,
    POOR_SHARE,
    CalibrationReport,
    check_calibration,
)
from scene4d.data.diagnose.calibration.sample import read_sample
from scene4d.data.diagnose.finding import Finding, finding_of
from scene4d.data.diagnose.inspect import GUESSED, describe, ledger_findings, read_through, sample_findings
from scene4d.errors import CalibrationError, Scene4DError
from scene4d.gaussians.formats.splat_files import is_splats
from scene4d.ledger import left_out
from scene4d.types import Recording

GUESSES: tuple[dict[str, Any], ...] = ({"fov_deg": 60.0}, {"fit": "crop"}, {"fov_deg": 60.0, "fit": "crop"})


def run_check(options: CheckOptions) -> dict[str, Any]:
    """Look into a source.

    Returns {source, format, recordings: [...], findings: [{kind, camera, field, found, expected, fix, mendable, score,
    recordings}], ok}. recordings holds those looked into, as `describe` has them (left_out: what the reader did not
    use), with {calibration: {pairs, agreement, scale: {good, poor}, median_mm, relative, untested,
    colour_pairs, epipolar_px}} where asked for;
    num_recordings and num_frames count all. ok: nothing was found. Of a file of splats: as `check_splats`.

    Raises:
        DataFormatError: there is no such file or folder.
    """
    if is_splats(options.source):
        return check_splats(options.source)
    recordings, refused, guessed = _opened(options)
    findings: dict[Finding, list[int]] = {f: [] for f in refused}
    for k, recording in enumerate(recordings):
        _note(findings, ledger_findings(left_out(recording.info)), index=k)
    described: list[dict[str, Any]] = []
    looked_into = _spread(len(recordings), options.samples)
    with counter_shown("looking into recordings") as count:
        for done, k in enumerate(looked_into, 1):
            facts, found = _looked_into(recordings[k], calibration=options.calibration, guessed=guessed)
            described.append({"index": k, **facts})
            _note(findings, found, index=k)
            count(done, len(looked_into))
    if options.deep:
        _decode(findings, recordings)
    form = _format(recordings[0]) if recordings else None
    what = {"source": str(options.source), "format": form, "num_recordings": len(recordings)}
    what["num_frames"] = sum(r.num_frames for r in recordings)
    listed = [{**f.as_dict(), "recordings": where} for f, where in findings.items()]
    return {**what, "recordings": described, "findings": listed, "ok": not findings}


def text_of(result: Mapping[str, Any]) -> str:
    """The report that people read."""
    return check_report(result)


def _note(findings: dict[Finding, list[int]], found: Sequence[Finding], *, index: int) -> None:
    """Note which recordings a finding was made in."""
    for finding in found:
        where = findings.setdefault(finding, [])
        if index not in where:
            where.append(index)


def _opened(options: CheckOptions) -> tuple[Sequence[Recording], list[Finding], bool]:
    """The recordings, what their reader refused, and whether calibration is guessed so that the rest can be seen."""
    try:
        return open_recordings(options.source, cameras=options.cameras, fov_deg=options.fov or None), [], False
    except Scene4DError as error:
        if not options.source.exists():
            raise
        findings = [finding_of(error)]
        if isinstance(error, CalibrationError):
            for guess in GUESSES:
                try:
                    return open_recordings(options.source, cameras=options.cameras, **guess), findings, True
                except Scene4DError:
                    continue
        return [], findings, False


def _looked_into(recording: Recording, *, calibration: bool, guessed: bool) -> tuple[dict[str, Any], list[Finding]]:
    try:
        sample = read_sample(recording)
    except Scene4DError as error:
        facts = {"path": str(recording.path), "num_frames": recording.num_frames, "cameras": {}}
        return facts, [finding_of(error)]
    facts, findings = describe(sample, guessed=guessed), sample_findings(sample)
    # A guess is known to be wrong: nothing is learnt from testing it.
    if calibration and not guessed and GUESSED not in recording.info:
        report = check_calibration(sample)
        findings += report.findings
        facts["calibration"] = _figures(report)
    return facts, findings


def _figures(report: CalibrationReport) -> dict[str, Any]:
    rounded = lambda value, digits: None if value is None else round(value, digits)
    return {
        "pairs": report.num_pairs,
        "agreement": rounded(report.agreement, 3),
        "scale": {"good": GOOD_SHARE, "poor": POOR_SHARE},
        "median_mm": rounded(report.median_mm, 2),
        "relative": rounded(report.relative, 5),
        "untested": report.untested,
        "colour_pairs": 0 if report.colour is None else report.colour.num_pairs,
        "epipolar_px": rounded(report.colour and report.colour.error_px, 2),
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
