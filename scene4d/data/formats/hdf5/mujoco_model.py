"""Cameras that a stored MuJoCo model (MJCF) fixes to the world: OpenGL axes, a vertical field of view, depth planes.

Only the XML is read, as MuJoCo's compiler reads it: `compiler` (angle, eulerseq), classes of defaults, bodies and
frames inside each other, and each of the five spellings of an orientation. Source: MuJoCo, "XML reference".
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np

from scene4d.data.cameras.calibration import CV_FROM_GL, inverse_poses
from scene4d.errors import CalibrationError, SecurityError
from scene4d.geometry.rotation import matrices_from_rotvecs, matrices_from_xyzw

MAX_BYTES = 1 << 24
DEFAULTS = {"fovy": 45.0, "znear": 0.01, "zfar": 50.0}
TURNS = {
    "axisangle": 4,
    "xyaxes": 6,
    "zaxis": 3,
    "euler": 3,
}  # spellings of an orientation beside quat, and their sizes
ANGLES = ("degree", "radian")
JOINTS = ("joint", "freejoint")
STANDS = ("fixed", "track")  # modes in which a camera of a body that stands still stands still too
ELSEWHERE = ("include", "attach", "model")  # elements that bring in parts of other files


@dataclass(frozen=True)
class ModelCamera:
    """A camera of a model."""

    viewmat: np.ndarray  # [4 4] camera-from-world, OpenCV
    focal: np.ndarray  # [2] fx / width and fy / height; fx is nan where pixels are square
    centre: np.ndarray  # [2] cx / width and cy / height

    def intrinsics(self, *, width: int, height: int) -> np.ndarray:
        """K [3 3] px."""
        fx, fy = self.focal * (width, height)
        cx, cy = self.centre * (width, height)
        return np.array([[fy if math.isnan(fx) else fx, 0, cx], [0, fy, cy], [0, 0, 1]])


@dataclass(frozen=True)
class ModelCameras:
    """What a model says of its cameras."""

    fixed: Mapping[str, ModelCamera] = field(default_factory=dict)
    others: Mapping[str, str] = field(default_factory=dict)  # cameras that have no pose of their own, and why
    near_far: tuple[float, float] | None = None  # m; None where the model does not state its extent


@dataclass(frozen=True)
class _Compiler:
    """What is stated once for the whole model."""

    file: Path
    degrees: bool
    eulerseq: str
    classes: Mapping[str, Mapping[str, str]]  # attributes of cameras by class of defaults


@dataclass(frozen=True)
class _Place:
    """Where in the tree of bodies an element is."""

    world_from_here: np.ndarray  # [4 4]
    childclass: str
    moved_by: str = ""  # why it has no pose of its own, where it has none


def fixed_cameras(text: Any, *, file: Path) -> ModelCameras:
    """The cameras of a model by name; those that move with the robot's state are named with the reason.

    Raises:
        CalibrationError: no XML, or numbers that are none. SecurityError: it defines entities, or wants other files.
    """
    if isinstance(text, bytes):
        text = text.decode("utf-8", "replace")
    if not isinstance(text, str) or len(text) > MAX_BYTES:
        return ModelCameras()
    where = {"file": file, "field": "model_file"}
    if "<!ENTITY" in text:
        raise SecurityError("the stored model defines entities; it was not read", **where)
    try:
        model = ElementTree.fromstring(text)
    except (ElementTree.ParseError, ValueError) as error:
        raise CalibrationError("the stored model is no XML", **where, found=str(error)) from error
    for element in model.iter():
        if element.tag == "include" or (element.tag in ELSEWHERE and element.get("file")):
            found = f"<{element.tag} file={element.get('file')!r}>"
            fix = "store the whole model (mj_saveLastXML), or describe the cameras in cameras.json"
            raise SecurityError(
                "the stored model is spread over other files; none was opened", **where, found=found, fix=fix
            )
    compiler = _compiler(model, file=file)
    cameras: dict[str, ModelCamera] = {}
    others: dict[str, str] = {}
    for element, place in _cameras(model, compiler):
        attributes = _with_defaults(element, place, compiler=compiler)
        name, why = attributes.get("name", ""), _why_not(attributes, place)
        if why:
            others[name] = why
        else:
            cameras[name] = _camera(attributes, place, compiler=compiler)
    return ModelCameras(cameras, others, _planes(model, file=file))


def _compiler(model: ElementTree.Element, *, file: Path) -> _Compiler:
    stated: dict[str, str] = {}
    for element in model.findall("compiler"):
        stated |= element.attrib
    sequence = stated.get("eulerseq", "xyz")
    known = len(sequence) == 3 and set(sequence.lower()) <= set("xyz")
    if (
        stated.get("coordinate", "local") != "local"
        or stated.get("angle", "degree") not in ("degree", "radian")
        or not known
    ):
        where = {"file": file, "field": "model_file compiler"}
        expected = "local coordinates, angle degree or radian, eulerseq of three axes"
        raise CalibrationError("is not supported", **where, found=stated, expected=expected)
    classes: dict[str, dict[str, str]] = {}
    open_ones = [(element, element.get("class", "main"), "") for element in model.findall("default")]
    while open_ones:
        element, name, parent = open_ones.pop(0)
        name = name if parent else "main"  # the class of all others, whatever it is called
        known_so_far = classes.get(name, {}) | ({} if name in classes else classes.get(parent, {}))
        for camera in element.findall("camera"):
            known_so_far = _merged(known_so_far, camera.attrib)
        classes[name] = known_so_far
        open_ones += [(inner, inner.get("class", ""), name) for inner in element.findall("default")]
    names = {element.get("class", "main") for element in model.findall("default")}
    classes |= {name: classes["main"] for name in names - set(classes)}
    return _Compiler(file, stated.get("angle", "degree") == "degree", sequence, classes)


def _merged(defaults: Mapping[str, str], attributes: Mapping[str, str]) -> dict[str, str]:
    """Attributes over their defaults; of the spellings of an orientation beside quat one is in force."""
    spelt = any(key in attributes for key in TURNS)
    return {k: v for k, v in defaults.items() if not (spelt and k in TURNS)} | dict(attributes)


def _cameras(model: ElementTree.Element, compiler: _Compiler) -> Iterator[tuple[ElementTree.Element, _Place]]:
    """Every camera with the place of what it is fixed to."""
    world = _Place(np.eye(4), childclass="main")
    open_ones = [(element, world) for element in model.findall("worldbody")]
    while open_ones:
        parent, place = open_ones.pop()
        for element in parent:
            match element.tag:
                case "camera":
                    yield element, place
                case "body" | "frame" | "replicate":
                    open_ones.append((element, _inside(element, place, compiler=compiler)))


def _inside(element: ElementTree.Element, place: _Place, *, compiler: _Compiler) -> _Place:
    """The place of what is in a body, a frame, or a part that is repeated."""
    name, moved_by = element.get("name", ""), place.moved_by
    if element.tag == "replicate":
        moved_by = moved_by or "it is in a part of the model that is repeated"
    elif element.tag == "body" and (element.get("mocap") == "true" or _has_joint(element)):
        moved_by = moved_by or f"it is fixed to the body {name!r}, which moves"
    here = place.world_from_here @ _pose(element.attrib, compiler)
    return _Place(here, childclass=element.get("childclass", place.childclass), moved_by=moved_by)


def _has_joint(body: ElementTree.Element) -> bool:
    """Whether a joint is the body's own, frames in between not counted."""
    open_ones = list(body)
    while open_ones:
        element = open_ones.pop()
        if element.tag in JOINTS:
            return True
        open_ones += list(element) if element.tag == "frame" else []
    return False


def _with_defaults(element: ElementTree.Element, place: _Place, *, compiler: _Compiler) -> dict[str, str]:
    name = element.get("class", place.childclass)
    if name not in compiler.classes and name != "main":
        where = {"file": compiler.file, "field": f"model_file camera {element.get('name', '')} class"}
        raise CalibrationError("is no class of defaults", **where, found=name, expected=sorted(compiler.classes))
    return _merged(compiler.classes.get(name, {}), element.attrib)


def _why_not(attributes: Mapping[str, str], place: _Place) -> str:
    """Why a camera has no pose, or no perspective, of its own; "" where it has both."""
    mode = attributes.get("mode", "fixed")
    if mode not in STANDS:
        return f"its mode is {mode}: it follows the scene"
    if attributes.get("orthographic") == "true" or attributes.get("projection", "perspective") != "perspective":
        return "it has no perspective (orthographic)"
    return place.moved_by


def _camera(attributes: Mapping[str, str], place: _Place, *, compiler: _Compiler) -> ModelCamera:
    focal, centre = _lens(attributes, compiler.file)
    with np.errstate(over="ignore", invalid="ignore"):  # what is too far away is refused here
        world_from_cam = place.world_from_here @ _pose(attributes, compiler)
        viewmat = inverse_poses(world_from_cam * CV_FROM_GL)
    if not all(np.isfinite(values).all() for values in (viewmat, focal[1:], centre)):
        where = {"file": compiler.file, "field": f"camera {attributes.get('name', '')}"}
        raise CalibrationError("is too far away, or too far from any lens, to be one", **where, found=dict(attributes))
    return ModelCamera(viewmat=viewmat, focal=focal, centre=centre)


def _lens(attributes: Mapping[str, str], file: Path) -> tuple[np.ndarray, np.ndarray]:
    """Focal lengths and principal point as shares of width and height."""
    read = lambda key, count, default=None: _numbers(attributes, key, count=count, file=file, default=default)
    sensor = read("sensorsize", 2, (0.0, 0.0))
    if not (sensor > 0).all():
        fov_deg = read("fovy", 1)[0]
        if not 0 < fov_deg < 180:
            where = {"file": file, "field": f"camera {attributes.get('name')}"}
            raise CalibrationError("is no camera", **where, found=f"fovy {fov_deg}")
        return np.array([math.nan, 0.5 / math.tan(math.radians(fov_deg) / 2)]), np.array([0.5, 0.5])
    pixels = read("resolution", 2, (1.0, 1.0))
    focal, shift = read("focal", 2, (0.0, 0.0)) / sensor, read("principal", 2, (0.0, 0.0)) / sensor
    focal = read("focalpixel", 2) / pixels if "focalpixel" in attributes else focal
    shift = read("principalpixel", 2) / pixels if "principalpixel" in attributes else shift
    if not ((focal > 0) & (pixels > 0)).all():
        where = {"file": file, "field": f"camera {attributes.get('name')}"}
        raise CalibrationError("has a sensor, and no focal length", **where, found=focal.tolist())
    return focal, 0.5 + shift * (-1, 1)


def _pose(attributes: Mapping[str, str], compiler: _Compiler) -> np.ndarray:
    """Parent-from-element [4 4] of pos and an orientation."""
    pose = np.eye(4)
    pose[:3, 3] = _numbers(attributes, "pos", count=3, file=compiler.file, default=(0, 0, 0))
    spelling = next((key for key in TURNS if key in attributes), None)
    if spelling is None:
        quat = _numbers(attributes, "quat", count=4, file=compiler.file, default=(1, 0, 0, 0))
        if not np.linalg.norm(quat) > 1e-6:
            raise _no_orientation(attributes, "quat", file=compiler.file)
        pose[:3, :3] = matrices_from_xyzw(quat[[1, 2, 3, 0]])
        return pose
    values = _numbers(attributes, spelling, count=TURNS[spelling], file=compiler.file)
    angle = math.radians(1) if compiler.degrees else 1.0
    match spelling:
        case "axisangle":
            axis = _unit(values[:3], attributes, spelling=spelling, file=compiler.file)
            pose[:3, :3] = matrices_from_rotvecs(axis * values[3] * angle)
        case "xyaxes":
            x = _unit(values[:3], attributes, spelling=spelling, file=compiler.file)
            y = _unit(values[3:] - x * (x @ values[3:]), attributes, spelling=spelling, file=compiler.file)
            pose[:3, :3] = np.stack([x, y, np.cross(x, y)], 1)
        case "zaxis":
            z = _unit(values, attributes, spelling=spelling, file=compiler.file)
            across = np.cross([0.0, 0.0, 1.0], z)
            size = float(np.linalg.norm(across))
            axis = across / size if size > 1e-10 else np.array([1.0, 0.0, 0.0])
            pose[:3, :3] = matrices_from_rotvecs(axis * math.atan2(size, z[2]))
        case _:
            turn = np.eye(3)
            for letter, value in zip(compiler.eulerseq, values * angle, strict=True):
                one = matrices_from_rotvecs(value * np.eye(3)["xyz".index(letter.lower())])
                turn = turn @ one if letter.islower() else one @ turn  # about axes that turn along, or that stay
            pose[:3, :3] = turn
    return pose


def _unit(vector: np.ndarray, attributes: Mapping[str, str], *, spelling: str, file: Path) -> np.ndarray:
    size = float(np.linalg.norm(vector))
    if not size > 1e-10:
        raise _no_orientation(attributes, spelling, file=file)
    return vector / size


def _no_orientation(attributes: Mapping[str, str], key: str, *, file: Path) -> CalibrationError:
    where = {"file": file, "field": f"camera {attributes.get('name', '')} {key}"}
    return CalibrationError("is no orientation", **where, found=attributes[key])


def _planes(model: ElementTree.Element, *, file: Path) -> tuple[float, float] | None:
    """Near and far plane in m, which MuJoCo states as shares of the model's extent."""
    stated: dict[str, str] = {}
    for element in (*model.findall("visual/map"), *model.findall("statistic")):
        stated |= element.attrib
    if not stated.get("extent"):
        return None
    near, far = (_numbers(stated, key, count=1, file=file)[0] for key in ("znear", "zfar"))
    size = _numbers(stated, "extent", count=1, file=file)[0]
    if not 0 < near * size < far * size:
        raise CalibrationError("near and far are no range", file=file, field="model_file", found=(near, far, size))
    return near * size, far * size


def _numbers(
    attributes: Mapping[str, str], key: str, *, count: int, file: Path, default: tuple[float, ...] | None = None
) -> np.ndarray:
    if key not in attributes:
        return np.array((DEFAULTS[key],) if default is None else default, np.float64)
    try:
        values = np.array(attributes[key].split(), np.float64)
    except ValueError:
        values = np.empty(0)
    if values.shape != (count,) or not np.isfinite(values).all():
        where = {"file": file, "field": f"model_file {attributes.get('name', '')} {key}"}
        raise CalibrationError("is no number, or not so many", **where, found=attributes[key], expected=count)
    return values
