"""The demo's index.html: one file that needs no network, with videos, a 3D view, the metrics and the actions inside."""

from __future__ import annotations

import base64
import html
import json
from dataclasses import dataclass
from pathlib import Path
from string import Template

import numpy as np
import torch

from scene4d.files import write_text
from scene4d.geometry.sh import rgb_from_sh
from scene4d.scene import Scene4D

MAX_POINTS = 12_000
# name in report.json, label, decimals, whether more is better
METRICS = (
    ("psnr", "image, dB", 1, True),
    ("psnr_moving", "moving pixels, dB", 1, True),
    ("ssim", "SSIM", 3, True),
    ("psnr_novel", "a camera never used as input, dB", 1, True),
    ("flow_epe_moving", "flow error, moving points, mm", 1, False),
    ("flow_epe_static", "flow error, static points, mm", 2, False),
    ("depth_absrel", "depth, relative error", 4, False),
)
METHODS = ((None, "scene4d"), ("constant_velocity", "constant velocity"), ("copy_last", "copy last"))


@dataclass(frozen=True)
class Page:
    """What the page shows; `horizon` maps steps ahead to {metric: ours, baseline: {metric: its}}."""

    title: str
    summary: str
    videos: dict[str, Path]
    future: Scene4D
    horizon: dict[str, dict]
    actions: dict
    files: list[str]


def write_page(path: Path, page: Page) -> None:
    """Fill the template and write it atomically."""
    template = Template((Path(__file__).parent / "page.html").read_text())
    videos = {f"{name}_video": base64.b64encode(file.read_bytes()).decode() for name, file in page.videos.items()}
    task, names = page.actions["task"], ", ".join(page.actions["names"])
    text = template.safe_substitute(
        title=html.escape(page.title),
        summary=html.escape(page.summary),
        points=json.dumps(_points(page.future)),
        table=_table(page.horizon),
        actions=_action_chart(page.actions),
        action_summary=html.escape(f'"{task}": {len(page.actions["actions"])} steps of {names}.'),
        files=", ".join(f'<a href="{html.escape(f)}">{html.escape(f)}</a>' for f in page.files),
        **videos,
    )
    write_text(path, text)


def _points(scene: Scene4D) -> dict:
    """Positions as int16 in the box of the scene, one block a time; rows not alive are in its corner."""
    sets = [scene.at(float(t)) for t in scene.times]
    keep = torch.arange(0, sets[0].num_gaussians, max(1, -(-sets[0].num_gaussians // MAX_POINTS)))
    first = sets[0].means[keep]
    center, half = first.median(0).values, float((first - first.median(0).values).norm(dim=-1).quantile(0.95))
    frames = []
    for gaussians in sets:
        box = ((gaussians.means[keep] - center) / half).clamp(-1, 1) * 32767
        box[gaussians.opacities[keep] <= 0] = -32767
        block = np.zeros((len(keep), 4), np.int16)
        block[:, :3] = box.round().cpu().numpy()
        frames.append(base64.b64encode(block.tobytes()).decode())
    colours = np.zeros((len(keep), 4), np.uint8)
    colours[:, :3] = (rgb_from_sh(sets[0].sh[keep]).clamp(0, 1) * 255).cpu().numpy()
    shown, times = base64.b64encode(colours.tobytes()).decode(), (scene.times - scene.times[0]).tolist()
    return {"count": len(keep), "times": times, "frames": frames, "yaw": 0.4, "colours": shown}


def _table(horizon: dict) -> str:
    steps = list(horizon)
    head = "".join(f"<th>{label} +{s}</th>" for s in steps for _, label in METHODS)
    rows = []
    for metric, label, decimals, more in METRICS:
        cells = []
        for step in steps:
            values = [(horizon[step].get(method, {}) if method else horizon[step]).get(metric) for method, _ in METHODS]
            known = [v for v in values if v is not None]
            best = (max if more else min)(known) if known else None
            cells += [_cell(v, best, decimals=decimals, scale=1000 if label.endswith("mm") else 1) for v in values]
        rows.append(f"<tr><td>{label}</td>{''.join(cells)}</tr>")
    return f"<table><tr><th></th>{head}</tr>{''.join(rows)}</table>"


def _cell(value: float | None, best: float | None, *, decimals: int, scale: float) -> str:
    if value is None:
        return "<td>-</td>"
    return f"<td{' class=best' if value == best else ''}>{value * scale:.{decimals}f}</td>"


def _action_chart(actions: dict) -> str:
    """Each action channel as a line over the chunk, drawn as inline SVG."""
    values = np.array(actions["actions"], dtype=float)
    width, height, colours = 1020, 150, ("#7db7ff", "#ffb86b", "#8fe08f", "#e58fd8", "#d0d06a", "#8fd8e5", "#ff8f8f")
    top = max(1e-6, float(np.abs(values).max()))
    lines = []
    for channel, (name, unit) in enumerate(zip(actions["names"], actions["units"], strict=True)):
        xs = 150 + np.arange(len(values)) * (width - 170) / max(1, len(values) - 1)
        ys = height / 2 - values[:, channel] / top * (height / 2 - 10)
        points = " ".join(f"{x:.0f},{y:.1f}" for x, y in zip(xs, ys, strict=True))
        colour = colours[channel % len(colours)]
        lines.append(f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="2"/>')
        label = html.escape(f"{name} [{unit}]")
        lines.append(f'<text x="0" y="{18 + 18 * channel}" fill="{colour}" font-size="13">{label}</text>')
    axis = f'<line x1="150" x2="{width - 20}" y1="{height / 2}" y2="{height / 2}" stroke="#444"/>'
    return f'<svg viewBox="0 0 {width} {height}" width="100%">{axis}{"".join(lines)}</svg>'
