"""Mends: named corrections of calibration and depth, applied while reading; what is on disk stays as it is.

A mend is spelled NAME, NAME=VALUE or NAME=VALUE@CAMERA,CAMERA (all cameras where none is named), such as
"opengl", "depth_scale=0.001" or "K_scale=0.5@wrist". What turns pictures may be for a part of them: "turn=90,depth".
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from scene4d.data.timeline.frame_table import RecordingReader
from scene4d.data.video.images import chosen_cameras
from scene4d.errors import ConfigError
from scene4d.geometry.camera import CV_FROM_GL, invert_rigid, pixel_centres
from scene4d.geometry.rotation import multiply_quat, quat_from_matrix
from scene4d.types import Cameras, Episode, Frames, Recording

AXES = {f"{sign}{axis}": (k, 1.0 if sign == "+" else -1.0) for k, axis in enumerate("xyz") for sign in "+-"}
TURNS = ("flip_vertical", "flip_horizontal", "turn")
PARTS = ("rgb", "depth")
ANGLES = ("90", "180", "270")
HOLE_TOLERANCE = 1e-4
Numbers = tuple[float, ...]


@dataclass(frozen=True)
class Mend:
    """One correction; `str` spells it and `parse_mend` reads it."""

    name: str
    """One of `MENDS`."""
    value: tuple[float | str, ...] = ()
    """Numbers, two camera names (swap), an axis (up), or an angle and a part of the pictures (`TURNS`)."""
    cameras: tuple[str, ...] = ()
    """Cameras it is for; all where empty."""

    def __str__(self) -> str:
        joint = "/" if self.name == "swap" else ","
        value = joint.join(v if isinstance(v, str) else f"{v:.6g}" for v in self.value)
        return self.name + (f"={value}" if value else "") + (f"@{','.join(self.cameras)}" if self.cameras else "")


def parse_mend(text: str) -> Mend:
    """The mend that a text spells.

    Raises:
        ConfigError: no such mend, or a value that it cannot have.
    """
    spelled, _, cameras = text.partition("@")
    name, _, value = spelled.partition("=")
    kind = MENDS.get(name)
    if kind is None:
        fix = "; ".join(f"{n}: {k.meaning}" for n, k in MENDS.items())
        raise ConfigError("no such mend", field="fix", found=name, expected=list(MENDS), fix=fix)
    parts = tuple(p for p in value.split("/" if name == "swap" else ",") if p)
    words: tuple[str, ...] = parts if name in ("swap", "up", *TURNS) else ()
    numbers: tuple[float, ...] = ()
    wrong = ConfigError("has another value", field=f"fix {name}", found=text, expected=kind.spelling)
    if not words and name not in TURNS:
        try:
            numbers = tuple(float(p) for p in parts)
        except ValueError:
            raise wrong from None
    if len(parts) not in kind.counts or (name == "up" and parts[0] not in AXES):
        raise wrong
    if name in TURNS:
        angles, rest = (parts[:1], parts[1:]) if name == "turn" else ((), parts)
        if not {*angles} <= {*ANGLES} or not {*rest} <= {*PARTS}:
            raise wrong
    if name == "lag" and any(number % 1 for number in numbers):
        raise wrong
    if name.endswith("_scale") and not all(0 < v < float("inf") for v in numbers):
        raise ConfigError("is no factor", field=f"fix {name}", found=text, expected=kind.spelling)
    return Mend(name, words or numbers, tuple(c for c in cameras.split(",") if c))


def apply_mend(mend: Mend, episode: Episode) -> Episode:
    """The episode [t] as it was meant. A lag is not applied here: it needs frames beyond the episode's ends.

    Raises:
        ConfigError: no such camera, or a mend that does not go with what the episode holds.
    """
    named = mend.value if mend.name == "swap" else mend.cameras
    unknown = [c for c in named if c not in episode.views]
    if unknown:
        raise ConfigError("no such camera", field=f"fix {mend}", found=unknown, expected=list(episode.views))
    if mend.name == "lag":
        return episode
    if mend.name == "swap":
        first, second = map(str, mend.value)
        views = dict(episode.views)
        placed = {first: views[second].cameras, second: views[first].cameras}
        views |= {n: _seen_by(views[n], cameras) for n, cameras in placed.items()}
        return episode.replace(views=views)
    if mend.name == "up":
        return _turned(episode, axis=str(mend.value[0]))
    chosen = mend.cameras or tuple(episode.views)
    views = {n: _mended(f, mend) if n in chosen else f for n, f in episode.views.items()}
    return episode.replace(views=views)


class MendedRecording(RecordingReader):
    """A recording as it was meant: `mends` are applied in order to what is read.

    A lag costs some frames at the ends: those that are left have a pose.
    """

    def __init__(self, recording: Recording, mends: tuple[Mend, ...]):
        self.recording, self.mends, self.lags = recording, mends, dict.fromkeys(recording.cameras, 0)
        for mend in mends:
            chosen_cameras(recording.cameras, mend.cameras or None, path=str(recording.path))
            if mend.name == "lag":
                for name in mend.cameras or recording.cameras:
                    self.lags[name] += int(mend.value[0])
        self.path, self.cameras, self.fps = recording.path, recording.cameras, recording.fps
        self.info = {**recording.info, "mends": [str(m) for m in mends]}
        self.num_frames = recording.num_frames - max(0, *self.lags.values()) + min(0, *self.lags.values())
        if self.num_frames < 1:
            raise ConfigError("leaves no frame", field="fix lag", found=self.lags, expected=recording.num_frames)

    def read_chosen(self, frames: range, cameras: Sequence[str], *, size: tuple[int, int] | None) -> Episode:
        """Existing frames of existing cameras, as the recording itself reads them, mended.

        Raises:
            ConfigError: a mend does not go with what the recording holds. What the recording raises.
        """
        # What a swap exchanges must be read even where only one of the two is wanted.
        swapped = {str(n) for m in self.mends if m.name == "swap" for n in m.value}
        names = [*cameras, *(n for n in self.cameras if n in swapped and n not in cameras)]
        offset = -min(0, *self.lags.values())
        read = lambda later, names: self.recording.read(
            frames.start + later, frames.stop + later, stride=frames.step, cameras=names, size=size
        )
        episode = read(offset, names)
        views = dict(episode.views)
        for lag in {self.lags[n] for n in names} - {0}:
            late = [n for n in names if self.lags[n] == lag]
            posed = read(offset + lag, late)
            views |= {n: views[n].replace(cameras=posed.views[n].cameras) for n in late}
        episode = episode.replace(views=views)
        for mend in self.mends:
            kept = tuple(c for c in mend.cameras if c in names)
            if kept or not mend.cameras:
                episode = apply_mend(Mend(mend.name, mend.value, kept), episode)
        info = {**episode.info, "mends": [str(m) for m in self.mends]}
        times = episode.times - self._first_time(offset) if offset else episode.times
        return episode.replace(views={n: episode.views[n] for n in cameras}, times=times, info=info)

    def _first_time(self, offset: int) -> Tensor:
        """Seconds at which the first frame that is left was taken."""
        return self.recording.read(offset, offset + 1, cameras=self.cameras[:1], size=(8, 8)).times[0]


def _mended(frames: Frames, mend: Mend) -> Frames:
    if mend.name in TURNS:
        return _laid_otherwise(frames, mend)
    return MENDS[mend.name].change(frames, tuple(float(value) for value in mend.value))


def _laid_otherwise(frames: Frames, mend: Mend) -> Frames:
    """Pictures turned or mirrored, their calibration left alone."""
    parts = {v for v in mend.value if v in PARTS} or {*PARTS}
    quarters = next((ANGLES.index(str(v)) + 1 for v in mend.value if v in ANGLES), 0)
    if quarters % 2 and frames.cameras.width != frames.cameras.height:
        found = f"{frames.cameras.width}x{frames.cameras.height}"
        fix = "turn the pictures at their source, and give the calibration of the turned ones"
        raise ConfigError("would change the size of the pictures", field=f"fix {mend}", found=found, fix=fix)

    def laid(x: Tensor, rows: int) -> Tensor:
        if mend.name == "turn":
            return torch.rot90(x, -quarters, (rows, rows + 1))
        return x.flip(rows if mend.name == "flip_vertical" else rows + 1)

    if "depth" in parts:
        frames = _with_depth(frames, lambda depth: laid(depth, -2))
    if "rgb" in parts:
        alpha = None if frames.alpha is None else laid(frames.alpha, -2)
        extras = {name: laid(x, -3) for name, x in frames.extras.items()}
        frames = frames.replace(rgb=laid(frames.rgb, -3), alpha=alpha, extras=extras)
    return frames


def _seen_by(frames: Frames, cameras: Cameras) -> Frames:
    return frames.replace(cameras=cameras.resized(frames.cameras.width, frames.cameras.height))


def _with_viewmats(frames: Frames, viewmats: Tensor) -> Frames:
    return frames.replace(cameras=frames.cameras.replace(viewmats=viewmats))


def _with_depth(frames: Frames, change: Callable[[Tensor], Tensor]) -> Frames:
    return frames if frames.depth is None else frames.replace(depth=change(frames.depth))


def _opengl(frames: Frames, _: Numbers) -> Frames:
    flip = torch.diag(frames.cameras.viewmats.new_tensor([*CV_FROM_GL, 1.0]))
    return _with_viewmats(frames, flip @ frames.cameras.viewmats)


def _inverted(frames: Frames, _: Numbers) -> Frames:
    return _with_viewmats(frames, invert_rigid(frames.cameras.viewmats))


def _position_scale(frames: Frames, factors: Numbers) -> Frames:
    viewmats = frames.cameras.viewmats.clone()
    viewmats[..., :3, 3] *= factors[0]
    return _with_viewmats(frames, viewmats)


def _depth_scale(frames: Frames, factors: Numbers) -> Frames:
    return _with_depth(frames, lambda depth: depth * factors[0])


def _depth_hole(frames: Frames, values: Numbers) -> Frames:
    (value,) = values
    return _with_depth(frames, lambda depth: torch.where((depth - value).abs() <= HOLE_TOLERANCE * value, 0, depth))


def _ray_depth(frames: Frames, _: Numbers) -> Frames:
    cameras = frames.cameras
    pixels = pixel_centres(cameras.width, cameras.height, like=cameras.Ks)
    K = cameras.Ks[..., None, None, :, :]
    x, y = (pixels[..., 0] - K[..., 0, 2]) / K[..., 0, 0], (pixels[..., 1] - K[..., 1, 2]) / K[..., 1, 1]
    return _with_depth(frames, lambda depth: depth / (1 + x * x + y * y).sqrt())


def _depth_shift(frames: Frames, shares: Numbers) -> Frames:
    height, width = frames.rgb.shape[-3:-1]
    dx, dy = round(shares[0] * width), round(shares[1] * height)

    def shifted(depth: Tensor) -> Tensor:
        moved = torch.zeros_like(depth)
        rows, cols = slice(max(0, dy), height + min(0, dy)), slice(max(0, dx), width + min(0, dx))
        from_rows, from_cols = slice(max(0, -dy), height - max(0, dy)), slice(max(0, -dx), width - max(0, dx))
        moved[..., rows, cols] = depth[..., from_rows, from_cols]
        return moved

    return _with_depth(frames, shifted)


def _K_scale(frames: Frames, factors: Numbers) -> Frames:
    rows = frames.cameras.Ks.new_tensor([[factors[0]], [factors[-1]], [1.0]])  # one for both axes, or one for each
    return frames.replace(cameras=frames.cameras.replace(Ks=frames.cameras.Ks * rows))


def _turned(episode: Episode, *, axis: str) -> Episode:
    """The world turned so that `axis` becomes +z."""
    if episode.actions.shape[-1] or episode.proprio.shape[-1]:
        fix = "turn actions and states at their source; their frame is not known here"
        raise ConfigError("would part the cameras from the robot", field=f"fix up={axis}", fix=fix)
    k, sign = AXES[axis]
    rows = torch.zeros(3, 3)
    rows[2, k] = sign
    rows[0, (k + 1) % 3] = 1.0
    rows[1] = torch.linalg.cross(rows[2], rows[0])
    turn = torch.eye(4)
    turn[:3, :3] = rows
    views = {n: _with_viewmats(f, f.cameras.viewmats @ turn.T) for n, f in episode.views.items()}
    poses = episode.segment_poses
    if poses is not None:
        quats = multiply_quat(quat_from_matrix(rows).expand(*poses.shape[:-1], 4), poses[..., :4])
        poses = torch.cat([quats, poses[..., 4:] @ rows.T], -1)
    return episode.replace(views=views, segment_poses=poses)


@dataclass(frozen=True)
class _Kind:
    meaning: str
    spelling: str
    counts: tuple[int, ...] = (0,)
    change: Callable[[Frames, Numbers], Frames] = lambda frames, _: frames


MENDS: dict[str, _Kind] = {
    "opengl": _Kind("camera axes are OpenGL's (y up, z back)", "opengl", change=_opengl),
    "inverted": _Kind("poses are the inverse of what they should be", "inverted", change=_inverted),
    "position_scale": _Kind("camera positions are in another unit", "position_scale=0.001", (1,), _position_scale),
    "depth_scale": _Kind("depth is in another unit", "depth_scale=0.001", (1,), _depth_scale),
    "depth_hole": _Kind("this depth (m) means not measured", "depth_hole=65.535", (1,), _depth_hole),
    "ray_depth": _Kind("depth is distance along the ray", "ray_depth", change=_ray_depth),
    "depth_shift": _Kind(
        "depth lies beside colour (shares of width, height)", "depth_shift=0.01,0", (2,), _depth_shift
    ),
    "K_scale": _Kind("K is for pictures of another size", "K_scale=0.5 or K_scale=0.5,0.4", (1, 2), _K_scale),
    "flip_vertical": _Kind("pictures are upside down", "flip_vertical or flip_vertical=rgb or =depth", (0, 1)),
    "flip_horizontal": _Kind("pictures are mirrored", "flip_horizontal or flip_horizontal=rgb or =depth", (0, 1)),
    "turn": _Kind("pictures are to be turned clockwise by 90, 180, 270 degrees", "turn=180 or turn=90,rgb", (1, 2)),
    "swap": _Kind("two cameras are exchanged", "swap=left/right", (2,)),
    "lag": _Kind("pictures belong to the pose so many frames later", "lag=1 or lag=-1", (1,)),
    "up": _Kind("this axis of the world points up", "up=-z", (1,)),
}
