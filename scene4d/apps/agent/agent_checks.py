"""What an agent accepts, and what it refuses before its memory changes: pictures, cameras, states, goals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from scene4d.errors import CalibrationError, DataFormatError, DepthError, Scene4DError
from scene4d.policy.head import ActionHead
from scene4d.types import Cameras, Frames

Pictures = Mapping[str, Frames]
"""{camera name: Frames []} of one instant."""
COLOUR_TOLERANCE = 0.01
"""How far beyond [0, 1] a colour may be by rounding or resampling: colours in 0..255 are far beyond."""
LEAST_DEVIATION = 1e-2
"""What a number that never changed is taken to vary by, in its unit."""
RIGID_TOLERANCE = 1e-3
"""Error of a rotation, or of a last row that is always the same, that counts as rounding."""


FARTHEST_DEPTH_M = 1e4
"""Beyond it, depth is no measurement: 0 is what stands for none."""
FARTHEST_PLACE_M = 100.0
"""From where the hand was on average while the head learned, to a camera or a goal."""
MOST_DEVIATIONS = 50.0
"""By which a number may be away from its mean while the head learned."""
LONGEST_FOCAL_PX = 1e6


def check_seen(values: Tensor, *, name: str, head: ActionHead) -> None:
    """Refuse states or actions [*b n] that have nothing to do with what the head learned from.

    Args:
        name: "proprio" or "actions".
    Raises:
        DataFormatError: a number lies outside the bounds of the training statistics.
    """
    key = "proprio" if name == "proprio" else "action"
    mean, std = (getattr(head, f"{key}_{part}").detach().cpu() for part in ("mean", "std"))
    reach = MOST_DEVIATIONS * std.clamp_min(LEAST_DEVIATION)
    wrong = ~((values.detach().cpu() - mean).abs() <= reach)
    if bool(wrong.any()):
        row, column = wrong.reshape(-1, len(mean)).nonzero()[0].tolist()
        found = f"[{column}] = {float(values.reshape(-1, len(mean))[row, column]):.3g}"
        expected = f"{float(mean[column] - reach[column]):.3g} to {float(mean[column] + reach[column]):.3g}"
        fix = "give it in the units of the weights, as /v1/info and scene4d act say"
        problem = "is outside the bounds of the training statistics"
        raise DataFormatError(problem, field=name, found=found, expected=expected, fix=fix)


def check_place(place: Tensor, *, field: str, head: ActionHead, kind: type[Scene4DError] = DataFormatError) -> None:
    """Refuse a place [3] m that is nowhere near where the head learned.

    Raises:
        Scene4DError: of that kind: it is farther than `FARTHEST_PLACE_M` from the hand's mean place.
    """
    centre = head.proprio_mean[:3].detach().double().cpu()
    away = float((place.detach().double().cpu() - centre).norm())
    if not away <= FARTHEST_PLACE_M:
        problem = "is outside the bounds of the training statistics"
        found, expected = f"{away:.3g} m from where the hand was", f"<= {FARTHEST_PLACE_M:g} m"
        raise kind(problem, field=field, found=found, expected=expected, fix="give places in m, in the robot's world")


def checked_goal(goal: Tensor | None) -> Tensor | None:
    """A goal [3] m, or None.

    Raises:
        DataFormatError: other than three finite numbers.
    """
    return None if goal is None else checked_vector(goal, name="goal", shape=(3,))


def checked_vector(values: Tensor, *, name: str, shape: tuple[int, ...]) -> Tensor:
    """The numbers as floats.

    Raises:
        DataFormatError: another shape, or not finite.
    """
    if tuple(values.shape) != shape or not bool(values.isfinite().all()):
        found = f"{list(values.shape)} {values.flatten()[:8].tolist()}"
        raise DataFormatError("is not what the head knows", field=name, expected=f"{list(shape)}, finite", found=found)
    return values.detach().float()


def check_colours(rgb: Tensor, *, field: str) -> None:
    """Refuse colours that are not in [0, 1].

    Raises:
        DataFormatError: not finite, or beyond.
    """
    if not bool(rgb.isfinite().all()):
        raise DataFormatError("is no picture", field=field, found=list(rgb.shape), expected="[h w 3], finite")
    if not bool(((rgb >= -COLOUR_TOLERANCE) & (rgb <= 1 + COLOUR_TOLERANCE)).all()):
        found = f"{float(rgb.min()):g} to {float(rgb.max()):g}"
        fix = "divide colours in 8 bits by 255"
        raise DataFormatError("is out of range", field=field, found=found, expected="[0, 1]", fix=fix)


def _check_camera(cameras: Cameras, *, name: str) -> None:
    """Refuse a camera [] (CalibrationError) that is not where, or not what, a pinhole camera can be."""
    viewmat, K = cameras.viewmats.double(), cameras.Ks.double()
    if not (bool(viewmat.isfinite().all()) and bool(K.isfinite().all())):
        raise CalibrationError("is not finite", field=f"{name}.viewmats, {name}.Ks")
    turn, last = viewmat[:3, :3], viewmat[3]
    det = float(torch.linalg.det(turn))
    off = max(_distance(turn @ turn.mT, torch.eye(3).to(turn)), _distance(last, last.new_tensor([0, 0, 0, 1])))
    if not (off < RIGID_TOLERANCE and det > 0):
        raise CalibrationError(
            "is no rigid motion", field=f"{name}.viewmats", expected="a rotation, det 1, and a place over 0 0 0 1",
            found=f"det {det:.4g}, off by {off:.2g}, last row {last.tolist()}",
            fix="give camera-from-world in OpenCV axes (x right, y down, z forward), m",
        )  # fmt: skip
    usual = bool((K.diagonal()[:2] > 0).all()) and float(K.abs().max()) <= LONGEST_FOCAL_PX
    if not (usual and _distance(K[2], K.new_tensor([0, 0, 1])) < RIGID_TOLERANCE):
        expected = f"focal lengths > 0 px over a last row 0 0 1, none above {LONGEST_FOCAL_PX:g}"
        raise CalibrationError("is no camera", field=f"{name}.Ks", found=K.tolist(), expected=expected)


def camera_places(cameras: Cameras) -> Tensor:
    """Where cameras [v] stand [v 3] m, float64."""
    viewmats = cameras.viewmats.double()
    return -(viewmats[..., :3, :3].mT @ viewmats[..., :3, 3:])[..., 0]


def _distance(values: Tensor, others: Tensor) -> float:
    return float((values - others).abs().max())


def stacked_frames(frames: Pictures, *, names: Sequence[str], size: tuple[int, int] | None) -> Frames:
    """The named cameras' pictures [v] of {camera name: Frames []}, depth 0 wherever it is unknown, without extras.

    Args:
        size: width and height in px that they are brought to; None = as they come.
    Raises:
        DataFormatError: a camera is missing, its colours are none, or sizes differ and none is given.
        DepthError: a camera gives no depth. CalibrationError: one is not where a camera can be.
    """
    missing = [name for name in names if name not in frames]
    if missing:
        raise DataFormatError("no such camera", field="cameras", found=list(frames), expected=list(names))
    chosen = [_checked_frames(frames[name], name=name) for name in names]
    if size is not None:
        chosen = [_resized(f, width=size[0], height=size[1]) for f in chosen]
    sizes = {name: (f.cameras.width, f.cameras.height) for name, f in zip(names, chosen, strict=True)}
    if len(set(sizes.values())) != 1:
        fix = "give the agent a size to bring them to"
        raise DataFormatError("differ in size", field="cameras", found=sizes, fix=fix)
    return Frames.stack(chosen)


def _checked_frames(frames: Frames, *, name: str) -> Frames:
    """Frames without extras whose depth is 0 wherever it is unknown."""
    if frames.batch_shape:
        raise DataFormatError("is no picture", field=f"{name}.rgb", found=list(frames.rgb.shape), expected="[h w 3]")
    check_colours(frames.rgb, field=f"{name}.rgb")
    if frames.depth is None:
        raise DepthError("is missing", field=f"{name}.depth", fix="give z-depth in m, 0 where it was not measured")
    _check_camera(frames.cameras, name=name)
    measured = frames.depth.isfinite() & (frames.depth > 0)
    if bool((frames.depth[measured] > FARTHEST_DEPTH_M).any()):
        found, expected = f"{float(frames.depth[measured].max()):.3g} m", f"<= {FARTHEST_DEPTH_M:g} m"
        fix = "give z-depth in m, 0 where it was not measured"
        raise DepthError("is no depth", field=f"{name}.depth", found=found, expected=expected, fix=fix)
    alpha = torch.ones_like(frames.depth) if frames.alpha is None else frames.alpha
    return frames.replace(depth=torch.where(measured, frames.depth, 0.0), alpha=alpha, extras={})


def _resized(frames: Frames, *, width: int, height: int) -> Frames:
    """Frames [] in another size: colour by area, depth and what is usable from the nearest pixel, K with them."""
    if (frames.cameras.width, frames.cameras.height) == (width, height):
        return frames
    rgb = interpolate(frames.rgb.movedim(-1, 0)[None], size=(height, width), mode="area")[0].movedim(0, -1)
    nearest = lambda x: interpolate(x[None, None], size=(height, width), mode="nearest-exact")[0, 0]
    cameras = frames.cameras.resized(width, height)
    return frames.replace(rgb=rgb, depth=nearest(frames.depth), alpha=nearest(frames.alpha), cameras=cameras)
