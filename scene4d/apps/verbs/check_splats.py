"""`scene4d check` of a file of splats: what is in it, and what of it was not read, or read otherwise."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from scene4d.data.diagnose.finding import Finding, finding_of
from scene4d.data.diagnose.inspect import ledger_findings
from scene4d.errors import Scene4DError
from scene4d.gaussians.formats.splat_files import open_splats
from scene4d.gaussians.formats.splat_notes import Splats


def check_splats(source: Path) -> dict[str, Any]:
    """Look into splats; returns what `run_check` does, of no recordings, and {splats: facts}.

    facts: num_gaussians, sh_degree, lowest and highest corner of the means, median size and opacity, mended (rows with
    impossible values, by rule), left_out (what was not read, or read otherwise).
    """
    what = {"source": str(source), "num_recordings": 0, "num_frames": 0, "recordings": []}
    try:
        splats = open_splats(source)
    except Scene4DError as error:
        if not source.exists():
            raise
        found = [{**finding_of(error).as_dict(), "recordings": []}]
        return {**what, "format": None, "findings": found, "ok": False}
    findings = ledger_findings(splats.notes)
    if splats.mended:
        counts = ", ".join(f"{count} {rule}" for rule, count in splats.mended.items())
        fix = f"scene4d export {source} -o WHOLE.ply writes a copy without them"
        findings.append(Finding("impossible_values", None, "splats", counts, "none", fix))
    listed = [{**f.as_dict(), "recordings": []} for f in findings]
    return {**what, "format": splats.form, "splats": _facts(splats), "findings": listed, "ok": not findings}


def _facts(splats: Splats) -> dict[str, Any]:
    g = splats.gaussians
    some = g.num_gaussians > 0
    return {
        "num_gaussians": g.num_gaussians,
        "sh_degree": round(g.sh.shape[-2] ** 0.5) - 1,
        "lowest": g.means.amin(0).tolist() if some else [0.0] * 3,
        "highest": g.means.amax(0).tolist() if some else [0.0] * 3,
        "size": float(g.scales.median()) if some else 0.0,
        "opacity": float(g.opacities.median()) if some else 0.0,
        "mended": splats.mended,
        "left_out": [note.as_dict() for note in splats.notes],
    }
