"""What is in a recording: cameras, sizes, rates, depth, units, actions; and what its reader had to leave out."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor

from scene4d.data.diagnose.calibration.sample import Sample, small_size
from scene4d.data.diagnose.finding import Finding, finding_of
from scene4d.data.diagnose.frame_faults import check_pictures
from scene4d.data.diagnose.world_axis import up_axis
from scene4d.data.timeline.stretches import full_sizes
from scene4d.errors import Scene4DError
from scene4d.ledger import LeftOut
from scene4d.types import Frames, Recording

CHUNK = 32
SQUARE = 0.05  # fx and fy differ by less, or pixels are not square
GUESSED = "calibration"  # what readers write where nothing was measured


def describe(sample: Sample, *, guessed: bool = False) -> dict[str, Any]:
    """JSON-ready facts of a recording; depth and the ranges of actions as the sample shows them.

    Args:
        guessed: calibration was made up to look inside. What it would say is None, as where the recording's own notes
            call its calibration a guess.
    """
    recording, windows = sample.recording, sample.windows
    unknown = guessed or GUESSED in recording.info
    sizes, moving = full_sizes(recording), sample.moving()
    cameras = {}
    for name in sample.cameras:
        frames = [w.views[name] for w in windows]
        cameras[name] = {"width": sizes[name][0], "height": sizes[name][1], "moving": name in moving}
        cameras[name] |= _lens_facts(frames[0], size=sizes[name]) | _depth_facts(frames)
        cameras[name] |= dict.fromkeys(("moving", "fov_deg", "pixel_aspect")) if unknown else {}
    info = recording.info
    return {
        "path": str(recording.path),
        "task": str(info.get("task") or ""),
        "num_frames": recording.num_frames,
        "fps": round(float(recording.fps), 3),
        "times": str(info.get("times") or "recorded"),
        "cameras": cameras,
        "units": str(info.get("units") or "m"),
        "up": None if unknown else up_axis(sample),
        "calibration_note": "unknown" if guessed else info.get(GUESSED),
        "actions": _columns(torch.cat([w.actions for w in windows]), info.get("action_spec")),
        "left_out": [entry.as_dict() for entry in sample.left_out()],
        "proprio": _columns(torch.cat([w.proprio for w in windows]), info.get("proprio_spec")),
    }


def sample_findings(sample: Sample) -> list[Finding]:
    """What the sample and the reader's own notes show to be wrong, calibration between views aside."""
    findings = ledger_findings(sample.left_out())
    for start, window in zip(sample.starts, sample.windows, strict=True):
        findings += check_pictures(window, start=start)
    sizes = full_sizes(sample.recording)
    for name, frames in sample.windows[0].views.items():
        aspect = _lens_facts(frames, size=sizes[name])["pixel_aspect"]
        if abs(aspect - 1) > SQUARE:
            found, fix = f"fx is {aspect:.3f} times fy", "right if the pictures were squeezed; otherwise mend K"
            findings.append(Finding("non_square_pixels", name, "K", found, "square pixels", fix))
    return findings


def ledger_findings(entries: Iterable[LeftOut]) -> list[Finding]:
    """What a reader left out, where a part of the recording is lost by it."""
    return [Finding(e.kind, e.camera, e.field, str(e), "", e.fix) for e in entries if e.lost]


def read_through(recording: Recording) -> Iterator[list[Finding]]:
    """Decode every picture of a recording, a chunk at a time: what is wrong with each chunk."""
    size = small_size(recording)
    for start in range(0, recording.num_frames, CHUNK):
        try:
            window = recording.read(start, min(start + CHUNK, recording.num_frames), size=size)
        except Scene4DError as error:
            yield [finding_of(error)]
            continue
        yield check_pictures(window, start=start)


def _lens_facts(frames: Frames, *, size: tuple[int, int]) -> dict[str, float]:
    K, cameras = frames.cameras.Ks[0], frames.cameras
    fx, fy = float(K[0, 0]) / cameras.width * size[0], float(K[1, 1]) / cameras.height * size[1]
    fov = math.degrees(2 * math.atan(0.5 * size[0] / abs(fx))) if fx else 0.0
    return {"fov_deg": round(fov, 1), "pixel_aspect": round(abs(fx / fy), 4) if fy else 0.0}


def _depth_facts(frames: list[Frames]) -> dict[str, Any]:
    if frames[0].depth is None:
        return {"depth": False}
    depth = torch.cat([f.depth.flatten() for f in frames if f.depth is not None])
    measured = depth[depth > 0]
    ordered = measured[:: max(1, len(measured) // 100_000)].sort().values
    at = lambda share: round(float(ordered[int(share * (len(ordered) - 1))]), 3)
    spread = [at(q) for q in (0.01, 0.5, 0.99)] if len(ordered) else []
    return {"depth": True, "depth_coverage": round(len(measured) / len(depth), 3), "depth_m": spread}


def _columns(values: Tensor, spec: Any) -> list[dict[str, Any]]:
    """Name, unit, least and largest value of each column [t a]."""
    rows = list(spec) if spec and len(spec) == values.shape[-1] else [{"name": str(i)} for i in range(values.shape[-1])]
    low = values.amin(0).tolist() if len(values) else []
    high = values.amax(0).tolist() if len(values) else []
    return [
        {"name": str(r.get("name")), "unit": r.get("unit"), "min": round(a, 4), "max": round(b, 4)}
        for r, a, b in zip(rows, low, high, strict=True)
    ]
