"""Tensors to pictures a person can read: depth and flow in colour, labelled panels. uint8 [h w 3] throughout."""

from __future__ import annotations

import math

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from scene4d.types import Frames

# Five anchors of a perceptually even map (dark = near, bright = far), joined by straight lines.
_DEPTH_COLOURS = np.array([[68, 1, 84], [59, 82, 139], [33, 145, 140], [94, 201, 98], [253, 231, 37]], dtype=np.float32)


def colour_picture(rgb: Tensor) -> np.ndarray:
    """Colour [h w 3] in [0, 1] (clamped)."""
    return (rgb.detach().clamp(0, 1) * 255).round().to(torch.uint8).cpu().numpy()


def depth_picture(depth: Tensor, *, near: float, far: float) -> np.ndarray:
    """Depth [h w] m between `near` and `far`; black where nothing was measured."""
    share = ((depth - near) / max(far - near, 1e-9)).clamp(0, 1).cpu().numpy() * (len(_DEPTH_COLOURS) - 1)
    low = np.clip(np.floor(share).astype(int), 0, len(_DEPTH_COLOURS) - 2)
    mixed = _DEPTH_COLOURS[low] + (share - low)[..., None] * (_DEPTH_COLOURS[low + 1] - _DEPTH_COLOURS[low])
    mixed[(depth <= 0).cpu().numpy()] = 0
    return mixed.round().astype(np.uint8)


def flow_picture(flow: Tensor, viewmat: Tensor, *, longest: float) -> np.ndarray:
    """Flow [h w 3] m as a camera sees it: hue = direction in the image, strength = length, full at `longest` m."""
    cam = flow @ viewmat[:3, :3].T
    angle = torch.atan2(cam[..., 1], cam[..., 0]) / (2 * math.pi) % 1.0
    strength = (flow.norm(dim=-1) / max(longest, 1e-9)).clamp(0, 1)
    hsv = torch.stack([angle, strength, 0.25 + 0.75 * strength], -1)
    picture = Image.fromarray((hsv * 255).round().to(torch.uint8).cpu().numpy(), mode="HSV")
    return np.asarray(picture.convert("RGB"))


def depth_range(frames: Frames) -> tuple[float, float]:
    """Near and far that hold 98 % of the measured depth, one range for a whole sequence so that it does not flicker."""
    measured = frames.depth[frames.depth > 0] if frames.depth is not None else torch.empty(0)
    if measured.numel() == 0:
        return 0.0, 1.0
    sample = measured[:: max(1, measured.numel() // 100_000)]
    return float(sample.quantile(0.01)), float(sample.quantile(0.99))


def enlarge(picture: np.ndarray, *, height: int) -> np.ndarray:
    """Resize to `height` px, keeping the shape; smooth, since these are photographs."""
    width = max(2, round(picture.shape[1] * height / picture.shape[0]))
    return np.asarray(Image.fromarray(picture).resize((width, height), Image.Resampling.BICUBIC))


def panels(pictures: dict[str, np.ndarray], *, height: int = 256, note: str = "") -> np.ndarray:
    """Pictures side by side, each under its label; `note` at the right end of the label bar."""
    gap, bar = 6, 24
    images = [enlarge(p, height=height) for p in pictures.values()]
    width = sum(i.shape[1] for i in images) + gap * (len(images) - 1)
    canvas = Image.new("RGB", (width + width % 2, height + bar + (height + bar) % 2), (18, 18, 20))
    draw = ImageDraw.Draw(canvas)
    font = ImageFont.load_default(14)
    x = 0
    for label, image in zip(pictures, images, strict=True):
        canvas.paste(Image.fromarray(image), (x, bar))
        draw.text((x + 6, 3), label, fill=(235, 235, 235), font=font)
        x += image.shape[1] + gap
    draw.text((width - 8 - draw.textlength(note, font=font), 3), note, fill=(150, 200, 255), font=font)
    return np.asarray(canvas)
