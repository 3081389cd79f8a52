"""cameras.json: the calibration that robot formats have no place for, one schema for every one of them.

{"cameras": {NAME: {"width", "height", "K", "viewmat" or "viewmats", "rgb", "depth", "depth_unit", "segments",
"distortion", "lens", "fit"}}}: rgb, depth, segments and viewmats name what the format at hand calls its parts (a
LeRobot feature, an HDF5 data set, a video file, a topic). In LeRobot sets "Ks" may name a feature too, where a camera
is another one in each episode; "K" is then that of the first.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from scene4d.data.cameras.calibration import checked_intrinsics, checked_poses
from scene4d.data.cameras.lens import MODELS, Lens, checked_lens, lens_or_none
from scene4d.data.files.json_files import matrix_of, read_json
from scene4d.data.files.paths import refuse_protocol
from scene4d.data.video.depth_codec import DEPTH_UNIT
from scene4d.errors import CalibrationError, ConfigError
from scene4d.ledger import uncalibrated, with_left_out

CONVENTIONS = (
    "OpenCV axes (x right, y down, z forward); viewmat is camera-from-world, row by row, in metres; "
    "K in pixels with pixel centres at +0.5; depth is z-depth, depth_unit metres a step, 0 = not measured; "
    "segment ids are stored plus one, 0 = nothing there"
)
SCHEMA = (
    '{"cameras": {"NAME": {"width": W, "height": H, "K": 3x3, "viewmat": 4x4 camera-from-world, "rgb": "FEATURE"}}}'
)
FITS = ("scale", "crop")
TEMPLATE = Path(__file__).with_name("cameras_template.json")


@dataclass(frozen=True)
class Supplied:
    """What the caller adds where a recording is silent or wrong."""

    cameras: Path | None = None
    """A cameras.json that lies elsewhere."""
    fov_deg: float | None = None
    """Assume this horizontal field of view and cameras at the origin; images can be used, geometry cannot."""
    fit: str | None = None
    """Calibration of another image size: "scale" K, or "crop" (padding at the right and bottom was cut: K stays)."""
    loose_times: bool = False
    """Take times in any order: they are put on an even grid afterwards (`resync`)."""

    def __post_init__(self) -> None:
        if self.fit is not None and self.fit not in FITS:
            raise ConfigError("is no known fit of a calibration", field="fit", found=self.fit, expected=list(FITS))
        if self.fov_deg is not None and not 1 < self.fov_deg < 170:
            raise ConfigError("is no field of view", field="fov_deg", found=self.fov_deg, expected="1..170")


NOTHING_SUPPLIED = Supplied()


@dataclass(frozen=True)
class CameraEntry:
    """One camera in cameras.json.

    viewmat is None when the camera moves: `viewmats` then names what holds [4 4] a frame (else it is empty). Ks names
    what holds [3 3] a frame where K changes (else it is empty); K is then that of the first frame.
    """

    width: int
    height: int
    K: np.ndarray
    viewmat: np.ndarray | None
    viewmats: str
    rgb: str
    depth: str | None = None
    depth_unit: float = DEPTH_UNIT
    segments: str | None = None
    lens: Lens | None = None
    near_far: tuple[float, float] | None = None
    Ks: str = ""

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready, without the fields that are not there."""
        values = {"width": self.width, "height": self.height, "K": self.K.tolist(), "rgb": self.rgb}
        values |= {"viewmats": self.viewmats} if self.viewmat is None else {"viewmat": self.viewmat.tolist()}
        values |= {"Ks": self.Ks} if self.Ks else {}
        values |= {"depth": self.depth, "depth_unit": self.depth_unit} if self.depth else {}
        if self.lens is not None:
            values |= {"lens": self.lens.model, "distortion": self.lens.coefficients.tolist()}
        return values | ({"segments": self.segments} if self.segments else {})


def find_cameras(
    places: Sequence[Path], *, sizes: Mapping[str, tuple[int, int]], columns: Collection[str],
    supplied: Supplied = NOTHING_SUPPLIED, what: str = "the format", changing_K: bool = False,
) -> tuple[dict[str, CameraEntry], dict[str, Any]]:  # fmt: skip
    """Cameras by name, and what `info` records of their calibration.

    Args:
        places: where cameras.json may lie, first the one to name when there is none.
        sizes: (width, height) px of everything that holds colour.
        columns: names of everything that may hold depth, segments or poses.
        changing_K: whether the format can hold K of every frame.
    Raises:
        CalibrationError: there is none (the message tells how to supply one), or an entry is impossible.
    """
    file = supplied.cameras or next((path for path in places if path.is_file()), None)
    if file is not None:
        table = read_json(file, fix=f"write it as {SCHEMA}")
        entries = entries_of(
            table.get("cameras"), file=file, sizes=sizes, columns=columns, fit=supplied.fit, changing_K=changing_K
        )
        left_out = sorted(set(sizes) - {e.rgb for e in entries.values()})
        return entries, with_left_out({}, uncalibrated(left_out))
    if supplied.fov_deg is not None and sizes:
        entries = {name: _guess(rgb, size=sizes[rgb], fov_deg=supplied.fov_deg) for name, rgb in short_names(sizes)}
        return entries, {"calibration": f"approximate: a guess of {supplied.fov_deg:g} deg, cameras at the origin"}
    sources = ", ".join(f"{name} ({w}x{h})" for name, (w, h) in list(sizes.items())[:12]) or "none"
    problem, without = f"there is no calibration: {what} has no place for it", "to look at images without geometry"
    fix = f"write {places[0]} as {SCHEMA} (template: {TEMPLATE}); {without}, give a field of view (--fov, or fov_deg)"
    raise CalibrationError(problem, file=places[0], field="cameras", found=f"images of {sources}", fix=fix)


def entries_of(
    entries: Any, *, file: Path, sizes: Mapping[str, tuple[int, int]], columns: Collection[str],
    fit: str | None = None, changing_K: bool = False,
) -> dict[str, CameraEntry]:  # fmt: skip
    """The "cameras" of a cameras.json, checked.

    Raises:
        CalibrationError: an entry is impossible, or names what does not exist. SecurityError: it names a protocol.
    """
    if not isinstance(entries, dict) or not entries:
        raise CalibrationError("names no camera", file=file, field="cameras", fix=f"write it as {SCHEMA}")
    for name, entry in entries.items():
        changing = entry.get("Ks") if isinstance(entry, dict) else None
        if changing is not None and (not changing_K or fit is not None or entry.get("fit") is not None):
            problem, fix = "cannot be read here with K of every frame", "give one K, for pictures as they are"
            raise CalibrationError(problem, file=file, field=f"cameras.{name}.Ks", found=changing, fix=fix)
    return {n: _entry(n, entry, file=file, sizes=sizes, columns=columns, fit=fit) for n, entry in entries.items()}


def short_names(sources: Collection[str]) -> list[tuple[str, str]]:
    """(camera name, source): the part of each source's name that tells it from the others."""
    words = [[w for w in re.split(r"[./]", s) if w and w not in ("mp4", "avi", "mov", "mkv", "webm")] for s in sources]
    for length in range(1, 1 + max((len(w) for w in words), default=0)):
        names = [".".join(w[-length:]) for w in words]
        if len(set(names)) == len(names):
            return list(zip(names, sources, strict=True))
    return [(s, s) for s in sources]


def _guess(rgb: str, *, size: tuple[int, int], fov_deg: float) -> CameraEntry:
    focal = 0.5 * size[0] / math.tan(math.radians(fov_deg) / 2)
    K = np.array([[focal, 0, size[0] / 2], [0, focal, size[1] / 2], [0, 0, 1]])
    return CameraEntry(width=size[0], height=size[1], K=K, viewmat=np.eye(4), viewmats="", rgb=rgb)


def _entry(
    name: str, entry: Any, *, file: Path, sizes: Mapping[str, tuple[int, int]], columns: Collection[str],
    fit: str | None,
) -> CameraEntry:  # fmt: skip
    field = f"cameras.{name}"
    if not isinstance(entry, dict):
        raise CalibrationError("is no camera", file=file, field=field, fix=f"write it as {SCHEMA}")
    for key in ("rgb", "depth", "segments", "viewmats", "Ks"):
        named, there = entry.get(key), sizes if key == "rgb" else columns
        known = isinstance(named, str) and named in there
        if not known and (named is not None or key == "rgb"):
            refuse_protocol(str(named), path=file.parent / str(named), file=file, field=f"{field}.{key}")
            problem = "names nothing that is there"
            raise CalibrationError(problem, file=file, field=f"{field}.{key}", found=named, expected=list(there)[:20])
    size, K = _fitted(entry, actual=sizes[entry["rgb"]], file=file, field=field, fit=entry.get("fit", fit))
    K = checked_intrinsics(K, width=size[0], height=size[1], file=file, camera=name)
    viewmat = None
    if entry.get("viewmats") is None:
        viewmat = matrix_of(entry.get("viewmat"))
        if viewmat.shape != (4, 4):
            fix = "give the camera-from-world matrix, or name what holds one a frame as viewmats"
            found = entry.get("viewmat")
            raise CalibrationError("has no pose", file=file, field=f"{field}.viewmat", found=found, fix=fix)
        checked_poses(viewmat[None], names=[name], file=file)
    unit = entry.get("depth_unit", DEPTH_UNIT)
    if isinstance(unit, bool) or not isinstance(unit, int | float) or not 0 < unit <= 1:
        where = {"file": file, "field": f"{field}.depth_unit"}
        raise CalibrationError("is no depth unit", **where, found=unit, expected="metres a step, such as 0.001")
    lens = _lens(entry, file=file, field=field)
    return CameraEntry(
        width=size[0],
        height=size[1],
        K=K,
        viewmat=viewmat,
        viewmats=entry.get("viewmats") or "",
        rgb=entry["rgb"],
        depth=entry.get("depth"),
        depth_unit=float(unit),
        segments=entry.get("segments"),
        lens=checked_lens(lens, K, size=size, file=file, camera=name),
        near_far=_near_far(entry, file=file, field=field),
        Ks=entry.get("Ks") or "",
    )


def _fitted(
    entry: Mapping[str, Any], *, actual: tuple[int, int], file: Path, field: str, fit: Any
) -> tuple[tuple[int, int], np.ndarray]:
    """(width, height) of the pictures, and K for them."""
    width, height, K = entry.get("width"), entry.get("height"), matrix_of(entry.get("K"))
    if (width, height) == tuple(actual) or K.shape != (3, 3):
        return actual, K
    if not (isinstance(width, int) and width > 0 and isinstance(height, int) and height > 0) or fit not in FITS:
        padded = (width, height) == tuple(16 * -(-side // 16) for side in actual)
        crop = '"crop": the calibrated size is the images\' size rounded up to 16, as video codecs pad it'
        fix = 'scale K, width and height to the images, or give "fit": ' + (crop if padded else '"scale"')
        problem = "the calibration is for another image size"
        raise CalibrationError(problem, file=file, field=field, found=(width, height), expected=actual, fix=fix)
    scale = np.array([[actual[0] / width], [actual[1] / height], [1.0]]) if fit == "scale" else 1.0
    return actual, K * scale


def _lens(entry: Mapping[str, Any], *, file: Path, field: str) -> Lens | None:
    coefficients = matrix_of(entry.get("distortion", []))
    model = entry.get("lens", "opencv")
    if model not in MODELS or coefficients.ndim != 1 or len(coefficients) > 8:
        problem, found = "is no known distortion", f"{model} {entry.get('distortion')}"
        expected = f"lens one of {list(MODELS)}, distortion [k1, k2, p1, p2, ...] or [k1, k2, k3, k4]"
        raise CalibrationError(problem, file=file, field=f"{field}.distortion", found=found, expected=expected)
    if model == "fisheye":
        return Lens("fisheye", np.pad(coefficients, (0, max(0, 4 - len(coefficients))))[:4])
    return lens_or_none(coefficients)


def _near_far(entry: Mapping[str, Any], *, file: Path, field: str) -> tuple[float, float] | None:
    if entry.get("near_far") is None:
        return None
    values = matrix_of(entry["near_far"])
    if values.shape != (2,) or not 0 < values[0] < values[1]:
        found = entry["near_far"]
        raise CalibrationError("near and far are no range", file=file, field=f"{field}.near_far", found=found)
    return float(values[0]), float(values[1])
