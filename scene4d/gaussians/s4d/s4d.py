"""The .s4d file: a Scene4D with its cameras and actions in one stored zip, read lazily, every part of it checked.

docs/s4d.md is its specification.

manifest.json           schema version, units, conventions, counts, provenance, SHA-256 of every other member
base.safetensors        what does not change: the Gaussians at rest, their skin, the anchors, times
frames/NNNN.safetensors what does: anchor poses (log_var, residual) of one instant
cameras.json            named cameras, if given
actions.safetensors     actions [*b t a], if given
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import safetensors.torch
import torch
from torch import Tensor

from scene4d.errors import DataFormatError, Scene4DError, ShapeError, VersionError
from scene4d.gaussians.s4d.container import MAX_JSON, Chunks, list_members, parse_json, read_members, write_archive
from scene4d.gaussians.s4d.s4d_rules import check_base, check_instants
from scene4d.scene import Motion, Scene4D
from scene4d.tensor_file import header_of_bytes
from scene4d.types import Cameras, Gaussians
from scene4d.unreadable import naming_pointers

T = TypeVar("T")
FORMAT, VERSION = "s4d", 1
CONVENTIONS = {
    "length": "m",
    "time": "s from the start of the episode",
    "angle": "rad",
    "cameras": "OpenCV, viewmats = camera from world, pixel centres at +0.5",
    "world": "z up",
    "quaternions": "wxyz",
    "poses": "quaternion, translation; world from rest",
    "scales": "standard deviations, activated",
    "opacities": "0 to 1, activated",
    "sh": "[n k 3], rgb = 0.5 + 0.2820948 sh_0 + ...",
}
FIELDS = ("means", "quats", "scales", "opacities", "sh", "ids")
SKIN = ("anchors", "skin_index", "skin_weights")
MAX_SIDE = 1 << 16


@dataclass(frozen=True)
class S4DFile:
    """An opened .s4d: the manifest is read and checked, tensors (and their hashes) when they are needed."""

    path: Path
    """Where it is."""
    manifest: Mapping[str, Any]
    """The parsed manifest.json."""

    @property
    def info(self) -> dict[str, Any]:
        """Provenance of the scene, and `action_spec` where actions are stored."""
        return dict(self.manifest["info"])

    @property
    def num_frames(self) -> int:
        """Instants in the file."""
        return int(self.manifest["num_frames"])

    @property
    def cameras(self) -> dict[str, Cameras]:
        """The named cameras; empty when none were stored."""
        if "cameras.json" not in self.manifest["members"]:
            return {}
        stored = parse_json(self._bytes(["cameras.json"])[0], file=self.path, field="cameras.json")
        return _guarded(self.path, lambda: {k: _camera_from_json(v) for k, v in stored.items()}, field="cameras.json")

    def input_cameras(self, index: int = 0) -> dict[str, Cameras]:
        """The cameras [] that the scene was reconstructed from (all where it does not tell) at an instant."""
        cameras = self.cameras
        names = [n for n in self.info.get("input_cameras") or cameras if n in cameras]
        return {n: cameras[n][index] if cameras[n].batch_shape else cameras[n] for n in names}

    @property
    def actions(self) -> Tensor | None:
        """Actions [*b t a], or None."""
        if "actions.safetensors" not in self.manifest["members"]:
            return None
        return _guarded(self.path, lambda: self._tensors("actions.safetensors")[0]["actions"], field="actions")

    @property
    def action_spec(self) -> list[dict[str, Any]]:
        """{name, unit, ...} of each action number; empty when unknown."""
        return list(self.manifest.get("action_spec") or [])

    @property
    def times(self) -> Tensor:
        """Instants [*b t] s (no frame is read)."""
        return _guarded(self.path, lambda: self._checked_base()["times"], field="times")

    def base(self) -> Gaussians:
        """The Gaussians at rest (no frame is read)."""
        return _guarded(self.path, lambda: _gaussians(self._checked_base()), field="base")

    def frame(self, index: int) -> Gaussians:
        """The Gaussians at instant `index`; reads base and that one frame."""
        scene = self.scene(frames=[index])
        return scene.at(scene.times[..., 0])

    def scene(self, *, frames: Sequence[int] | None = None) -> Scene4D:
        """The whole scene, or the named instants of it.

        Raises:
            DataFormatError: a member is missing, changed (its SHA-256 differs), or does not fit the others.
        """
        chosen = range(self.num_frames) if frames is None else list(frames)
        if any(not 0 <= i < self.num_frames for i in chosen):
            found = list(chosen)
            raise DataFormatError("no such frame", file=self.path, found=found, expected=f"0..{self.num_frames - 1}")
        return _guarded(self.path, lambda: self._scene(chosen), field="scene")

    def _scene(self, chosen: Sequence[int]) -> Scene4D:
        base, *instants = self._tensors("base.safetensors", *(frame_member(i) for i in chosen))
        check_base(base, self.manifest)
        check_instants(instants, base)
        axis = base["times"].ndim - 1  # of t, after the batch

        def over_time(name: str) -> Tensor:
            return torch.stack([f[name] for f in instants], axis)

        no_poses = base["anchors"].new_zeros(*base["anchors"].shape[:-2], 0, base["anchors"].shape[-2], 7)
        motion = Motion(
            **{k: base[k] for k in SKIN},
            world_from_rest=over_time("world_from_rest") if instants else no_poses,
            log_var=over_time("log_var") if instants and "log_var" in instants[0] else None,
        )
        names = [k.removeprefix("residual/") for k in (instants[0] if instants else {}) if k.startswith("residual/")]
        pick = torch.tensor(list(chosen), dtype=torch.int64)
        return Scene4D(
            base=_gaussians(base),
            motion=motion,
            alive=base["alive"],
            times=base["times"].index_select(axis, pick),
            observed=base["observed"].index_select(axis, pick),
            residual={n: over_time(f"residual/{n}") for n in names} or None,
            info=self.info,
        )

    def _checked_base(self) -> dict[str, Tensor]:
        base = self._tensors("base.safetensors")[0]
        check_base(base, self.manifest)
        return base

    def _bytes(self, members: Sequence[str]) -> list[bytes]:
        found = read_members(self.path, members)
        for member, data in zip(members, found, strict=True):
            wanted = self.manifest["members"].get(member, {}).get("sha256")
            if wanted != hashlib.sha256(data).hexdigest():
                problem = "is not in the manifest" if wanted is None else "was changed or damaged (SHA-256 differs)"
                raise DataFormatError(problem, file=self.path, field=member, fix="copy or write the file again")
        return found

    def _tensors(self, *members: str) -> list[dict[str, Tensor]]:
        found = self._bytes(members)
        for member, data in zip(members, found, strict=True):
            header_of_bytes(data, file=self.path, field=member, kind=DataFormatError)
        try:
            return [safetensors.torch.load(data) for data in found]
        except (safetensors.SafetensorError, ValueError, KeyError, TypeError) as error:
            reason = str(error)[:80]
            raise DataFormatError("holds no safetensors", file=self.path, field=members[0], found=reason) from error


@naming_pointers()
def open_s4d(path: str | os.PathLike) -> S4DFile:
    """Open a .s4d: checks the zip (stored, no odd names, nothing bigger than the file) and reads the manifest only.

    Raises:
        DataFormatError: not a .s4d, truncated, or the manifest lies about members.
        SecurityError: a member's name leaves the archive.
        VersionError: written by a later version.
    """
    path = Path(path)
    members = list_members(path)
    manifest = parse_json(read_members(path, ["manifest.json"])[0], file=path, field="manifest.json")
    if manifest.get("format") != FORMAT:
        raise DataFormatError("is no .s4d", file=path, field="format", found=manifest.get("format"), expected=FORMAT)
    if manifest.get("version") != VERSION:
        found = manifest.get("version")
        problem, fix = "written by another version", "update scene4d, or write the file again with this one"
        raise VersionError(problem, file=path, field="version", found=str(found)[:40], expected=VERSION, fix=fix)
    listed, num_frames = manifest.get("members"), manifest.get("num_frames")
    if not isinstance(listed, dict) or not isinstance(manifest.get("info"), dict):
        raise DataFormatError("has no members or no info", file=path, field="manifest.json", fix="write it again")
    if not all(isinstance(v, dict) for v in listed.values()) or not isinstance(num_frames, int) or num_frames < 0:
        raise DataFormatError("is malformed", file=path, field="manifest.json", found=f"num_frames {num_frames!r}"[:60])
    num_stored = sum(name.startswith("frames/") for name in members)
    if set(listed) | {"manifest.json"} != set(members) or num_stored != num_frames or "base.safetensors" not in listed:
        problem = "members and manifest differ"
        found = sorted(set(members) ^ (set(listed) | {"manifest.json"}))[:5] or f"{num_stored} frames"
        expected, fix = f"{num_frames} frames and what the manifest lists", "copy or write the file again"
        raise DataFormatError(problem, file=path, field="members", found=found, expected=expected, fix=fix)
    return S4DFile(path=path, manifest=manifest)


def load_s4d(path: str | os.PathLike) -> Scene4D:
    """The scene of a .s4d, read whole; `open_s4d` reads lazily and gives the cameras and actions too."""
    return open_s4d(path).scene()


def write_s4d(
    path: str | os.PathLike,
    scene: Scene4D,
    *,
    cameras: Mapping[str, Cameras] | None = None,
    actions: Tensor | None = None,
    action_spec: Sequence[Mapping[str, Any]] = (),
    info: Mapping[str, Any] | None = None,
) -> None:
    """Write a scene (any batch axes) whole or not at all; the same scene gives the same bytes.

    Args:
        cameras: named cameras, single [] or over the scene's times [t].
        actions: [*b t a] that led through the scene, or that a forecast was made from.
        action_spec: {name, unit} of each action number.
        info: provenance, JSON-ready; added to `scene.info`.
    Raises:
        ResourceError: the disk is full or read-only, or there are too many instants for a file.
        DataFormatError: `info` is not JSON-ready.
    """
    scene = scene.detach().to("cpu")
    axis = scene.times.ndim - 1
    moving = {"world_from_rest": scene.motion.world_from_rest, "log_var": scene.motion.log_var}
    moving |= {f"residual/{k}": v for k, v in (scene.residual or {}).items()}

    def instant(index: int) -> list[bytes]:
        return [safetensors_bytes({k: v.select(axis, index) for k, v in moving.items() if v is not None})]

    members: dict[str, Chunks] = {"base.safetensors": lambda: [safetensors_bytes(base_tensors(scene))]}
    members |= {frame_member(i): partial(instant, i) for i in range(scene.times.shape[-1])}
    members |= camera_member(cameras, path=path)
    if actions is not None:
        members["actions.safetensors"] = lambda: [safetensors_bytes({"actions": actions.detach().cpu()})]
    counts = {
        "num_gaussians": scene.base.num_gaussians,
        "num_anchors": scene.motion.anchors.shape[-2],
        "num_frames": scene.times.shape[-1],
        "num_observed": int(scene.observed.sum()),
        "batch_shape": list(scene.batch_shape),
        "sh_degree": int(scene.base.sh.shape[-2] ** 0.5) - 1,
        "action_spec": [dict(s) for s in action_spec],
    }
    about = {**scene.info, **(info or {})}
    write_archive(path, members, manifest=partial(manifest_bytes, counts=counts, info=about, path=path))


def base_tensors(scene: Scene4D) -> dict[str, Tensor]:
    """The tensors of base.safetensors, by their names there."""
    base = {name: getattr(scene.base, name) for name in FIELDS}
    base |= {f"extras/{k}": v for k, v in scene.base.extras.items()}
    base |= {name: getattr(scene.motion, name) for name in SKIN}
    return base | {"alive": scene.alive, "times": scene.times, "observed": scene.observed}


def manifest_bytes(
    members: Mapping[str, Any], *, counts: Mapping[str, Any], info: Mapping[str, Any], path: str | os.PathLike
) -> bytes:
    """manifest.json of the members {name: {sha256, bytes}}.

    Raises:
        DataFormatError: `info` is not JSON-ready.
    """
    head = {"format": FORMAT, "version": VERSION, "conventions": CONVENTIONS}
    return _json({**head, **counts, "info": dict(info), "members": dict(members)}, path, field="info")


def camera_member(cameras: Mapping[str, Cameras] | None, *, path: str | os.PathLike) -> dict[str, Chunks]:
    """{cameras.json: its bytes}, or nothing without cameras."""
    if not cameras:
        return {}
    data = _json({name: _json_from_camera(c) for name, c in cameras.items()}, path, field="cameras")
    return {"cameras.json": lambda: [data]}


def frame_member(index: int) -> str:
    """Name of the member that holds instant `index`."""
    return f"frames/{index:04d}.safetensors"


def safetensors_bytes(tensors: Mapping[str, Tensor]) -> bytes:
    """Named tensors as a .safetensors file."""
    return safetensors.torch.save({k: v.contiguous().clone() for k, v in tensors.items()})


def _gaussians(tensors: Mapping[str, Tensor]) -> Gaussians:
    extras = {k.removeprefix("extras/"): v for k, v in tensors.items() if k.startswith("extras/")}
    return Gaussians(**{name: tensors[name] for name in FIELDS}, extras=extras)


def _json(value: Any, path: str | os.PathLike, *, field: str) -> bytes:
    try:
        data = json.dumps(value, indent=1, allow_nan=False).encode()
    except (TypeError, ValueError) as error:
        raise DataFormatError("cannot be written as JSON", file=path, field=field, found=str(error)[:100]) from error
    if len(data) > MAX_JSON:
        raise DataFormatError("is too long", file=path, field=field, found=len(data), expected=f"<= {MAX_JSON} bytes")
    return data


def _json_from_camera(cameras: Cameras) -> dict[str, Any]:
    # A float32 is exact as a decimal double, so nothing is lost.
    numbers = {"viewmats": cameras.viewmats.tolist(), "Ks": cameras.Ks.tolist()}
    return {**numbers, "width": cameras.width, "height": cameras.height, "dtype": str(cameras.Ks.dtype)[6:]}


def _camera_from_json(fields: Mapping[str, Any]) -> Cameras:
    dtype = torch.float64 if fields.get("dtype") == "float64" else torch.float32
    viewmats, Ks = (torch.tensor(fields[k], dtype=dtype) for k in ("viewmats", "Ks"))
    if not bool(viewmats.isfinite().all() and Ks.isfinite().all()):
        raise ValueError("numbers beyond the range of a float")
    if not all(1 <= int(fields[k]) <= MAX_SIDE for k in ("width", "height")):
        raise ValueError(f"width and height of 1 to {MAX_SIDE} px")
    return Cameras(viewmats=viewmats, Ks=Ks, width=int(fields["width"]), height=int(fields["height"]))


def _guarded(path: Path, make: Callable[[], T], *, field: str) -> T:
    """What `make()` returns; tensors that are missing or do not fit each other are the file's fault."""
    try:
        return make()
    except ShapeError as error:
        raise DataFormatError(
            error.problem, file=path, field=error.field, found=error.found, expected=error.expected
        ) from error
    except Scene4DError:
        raise
    except (KeyError, ValueError, TypeError, RuntimeError, AttributeError, OverflowError, IndexError) as error:
        raise DataFormatError("does not hold a scene", file=path, field=field, found=repr(error)[:100]) from error
