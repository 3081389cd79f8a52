"""What `scene4d check` found, as people read it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

MAX_COLUMNS = 16  # of actions and states each, before "and more"
MAX_NAMES = 8


def check_report(result: Mapping[str, Any]) -> str:
    """The facts of each recording that was looked into, then the findings, each with what to do; see `run_check`."""
    source = result["source"]
    counts = f"{result['num_recordings']} recordings, {result['num_frames']} frames"
    splats = result.get("splats")
    lines = [f"{source}: {result['format'] or 'cannot be read'}, {'splats' if splats else counts}"]
    lines += _splats(splats) if splats else []
    for facts in result["recordings"]:
        lines += _facts(facts)
    lines.append("")
    for finding in result["findings"]:
        lines += _finding(finding, source=source)
    findings = result["findings"]
    return "\n".join([*lines, f"findings: {len(findings)}" if findings else "nothing wrong was found"])


def _finding(finding: Mapping[str, Any], *, source: str) -> list[str]:
    mendable, score = finding["mendable"], finding["score"]
    camera = finding["camera"] or ("all cameras" if mendable else "")
    inside = f" in recording {_listed(finding['recordings'])}" if finding["recordings"] else ""
    lines = [f"WRONG {finding['kind']}: " + " ".join(part for part in (camera, finding["field"]) if part) + inside]
    lines.append(f"      found     {finding['found']}")
    lines += [f"      expected  {finding['expected']}"] if finding["expected"] else []
    lines += [f"      score     {score['before']:.2f} as it is, {score['after']:.2f} mended"] if score else []
    command = f"scene4d convert {source} -o COPY --fix {finding['fix']}" if mendable else finding["fix"]
    return [*lines, f"      mend      {command}"] if command else lines


def _splats(facts: Mapping[str, Any]) -> list[str]:
    corners = " .. ".join(f"({', '.join(f'{x:.3g}' for x in facts[end])})" for end in ("lowest", "highest"))
    lines = [f"  {facts['num_gaussians']} splats, SH degree {facts['sh_degree']}, from {corners}"]
    lines.append(f"  median size {facts['size']:.3g}, median opacity {facts['opacity']:.2f}")
    for note in facts["left_out"]:
        lines.append(f"  note: {note['field']} {_listed(note['names'])} ({note['reason']})")
    return lines


def _facts(facts: Mapping[str, Any]) -> list[str]:
    lines = ["", f"recording {facts['index']}: {facts['path']}"]
    if "fps" not in facts:
        return [*lines, f"  {facts['num_frames']} frames, which cannot be read"]
    task = f", task {facts['task'].splitlines()[0]!r}" if facts["task"] else ""
    lines.append(f"  {facts['num_frames']} frames at {facts['fps']:g} a second ({facts['times']}){task}")
    lines.append(f"  units {facts['units']}; up in the world is {facts['up'] or 'not clear'}")
    lines += [f"  calibration is {facts['calibration_note']}"] if facts.get("calibration_note") else []
    lines += [_camera(name, camera) for name, camera in facts["cameras"].items()]
    for entry in facts["left_out"]:
        lines.append(f"  not used: {entry['field']} {_listed(entry['names'])} ({entry['reason']})")
    for what in ("actions", "proprio"):
        for column in facts[what][:MAX_COLUMNS]:
            unit = f" {column['unit']}" if column["unit"] else ""
            lines.append(f"  {what} {column['name']}: {column['min']:g} .. {column['max']:g}{unit}")
        more = len(facts[what]) - MAX_COLUMNS
        lines += [f"  and {more} more {what}"] if more > 0 else []
    return [*lines, *_calibration(facts["calibration"])] if "calibration" in facts else lines


def _camera(name: str, camera: Mapping[str, Any]) -> str:
    depth = "no depth"
    if camera["depth"]:
        near, median, far = camera["depth_m"] or (0, 0, 0)
        depth = f"depth on {100 * camera['depth_coverage']:.0f} %, {near:g} .. {median:g} .. {far:g} m"
    moves = {None: "whether it moves unknown", True: "moves", False: "stands still"}[camera["moving"]]
    view = "field of view unknown" if camera["fov_deg"] is None else f"{camera['fov_deg']:g} deg"
    return f"  camera {name}: {camera['width']}x{camera['height']}, {view}, {moves}, {depth}"


def _calibration(figures: Mapping[str, Any]) -> list[str]:
    lines = []
    if figures["epipolar_px"] is not None:
        off, pairs = f"{figures['epipolar_px']:g} px", figures["colour_pairs"]
        lines.append(f"  calibration by colour: points found in two pictures lie {off} from where the cameras say")
        lines.append(f"    (median over {pairs} pairs, at most 480 px wide; good: under 1.5 px; wrong: over 5 px)")
    if figures["untested"]:
        return [f"  calibration: not tested by depth ({figures['untested']})", *lines]
    off = "" if figures["median_mm"] is None else f", median {figures['median_mm']:g} mm apart"
    off += "" if figures["relative"] is None else f" ({100 * figures['relative']:.2g} % of the depth)"
    share, scale = f"{100 * figures['agreement']:.0f} % of the pixels seen twice agree", figures["scale"]
    good, poor = (f"{100 * scale[k]:.0f} %" for k in ("good", "poor"))
    pairs = f"{figures['pairs']} pairs of views"
    return [f"  calibration: {share} (good: {good} and more; poor: under {poor}){off}, in {pairs}", *lines]


def _listed(names: list[Any]) -> str:
    return ", ".join(map(str, names[:MAX_NAMES])) + (" ..." if len(names) > MAX_NAMES else "")
