"""Cameras of MuJoCo models, as MuJoCo's own compiler places them."""

from pathlib import Path

import numpy as np
import pytest

from scene4d.data.cameras.calibration import CV_FROM_GL
from scene4d.data.formats.hdf5.mujoco_model import fixed_cameras
from scene4d.errors import CalibrationError, SecurityError

FILE = Path("demo.hdf5")


class Writer:
    """Random models: bodies and frames inside each other, classes, every spelling of an orientation."""

    def __init__(self, seed):
        self.dice = np.random.default_rng(seed)
        self.count = 0
        self.degrees = bool(self.dice.integers(2))
        sequence = "".join(self.dice.permutation(["x", "Y", "z", "X", "y", "Z"])[:3])
        angle = "degree" if self.degrees else "radian"
        attributes = [f'angle="{angle}"'] if self.dice.integers(2) or not self.degrees else []
        attributes += [f'eulerseq="{sequence}"'] if self.dice.integers(2) else []
        self.text = (
            f"<mujoco><compiler {' '.join(attributes)}/>"
            f"<default><camera {self.turn()} fovy='{self.dice.uniform(20, 90)}'/>"
            f"<default class='a'><camera pos='{self.row(3)}'/>"
            f"<default class='b'><camera {self.turn()}/></default></default>"
            f"<default class='c'><camera fovy='33'/></default></default>"
            f"<worldbody>{self.inside(0)}</worldbody></mujoco>"
        )

    def row(self, count, low=-1.0, high=1.0):
        return " ".join(f"{v:.12f}" for v in self.dice.uniform(low, high, count))

    def turn(self):
        angle = 180 if self.degrees else 3
        match self.dice.integers(6):
            case 0:
                return f'quat="{self.row(4)}"'
            case 1:
                return f'axisangle="{self.row(3)} {self.row(1, -angle, angle)}"'
            case 2:
                return f'xyaxes="{self.row(6)}"'
            case 3:
                return f'zaxis="{self.dice.choice([self.row(3), "0 0 1", "0 0 -2"])}"'
            case 4:
                return f'euler="{self.row(3, -angle, angle)}"'
        return ""

    def inside(self, depth):
        parts = []
        for _ in range(self.dice.integers(1, 4)):
            self.count += 1
            name = f"c{self.count}"
            chosen = self.dice.choice(["", 'class="a"', 'class="b"', 'class="c"'])
            lens = self.dice.choice(
                ["", f'fovy="{self.dice.uniform(20, 90)}"', f"{self.sensor('')}", f"{self.sensor('pixel')}"]
            )
            place = f'pos="{self.row(3)}"' if self.dice.integers(2) else ""
            parts.append(f'<camera name="{name}" {place} {self.turn()} {chosen} {lens}/>')
            if depth < 3:
                tag = self.dice.choice(["body", "frame"])
                child = self.dice.choice(["", 'childclass="a"', 'childclass="b"'])
                joint = "<joint/>" if tag == "body" and self.dice.integers(5) == 0 else ""
                geom = "<geom size='.1'/>" if tag == "body" else ""
                parts.append(
                    f'<{tag} pos="{self.row(3)}" {self.turn()} {child}>{joint}{geom}{self.inside(depth + 1)}</{tag}>'
                )
        return "".join(parts)

    def sensor(self, unit):
        scale = 0.01 if unit == "" else 100
        return (
            f'sensorsize="{self.row(2, 0.01, 0.02)}" resolution="64 48" '
            f'focal{unit}="{self.row(2, scale, 2 * scale)}" principal{unit}="{self.row(2, -scale / 10, scale / 10)}"'
        )


def frustum_matrix(mujoco, model, data, index):
    """K [3 3] of a 64x48 picture, from the frustum that MuJoCo draws with."""
    scene, camera = mujoco.MjvScene(model, 100), mujoco.MjvCamera()
    camera.type, camera.fixedcamid = mujoco.mjtCamera.mjCAMERA_FIXED, index
    mujoco.mjv_updateScene(model, data, mujoco.MjvOption(), None, camera, mujoco.mjtCatBit.mjCAT_ALL, scene)
    eye = scene.camera[0]
    near, top, bottom = eye.frustum_near, eye.frustum_top, eye.frustum_bottom
    # Half its width; 0 where the width follows from the height.
    half = eye.frustum_width or 0.5 * (top - bottom) * 64 / 48
    left, right = eye.frustum_center - half, eye.frustum_center + half
    fx, fy = 64 * near / (right - left), 48 * near / (top - bottom)
    return np.array([[fx, 0, -left / near * fx], [0, fy, top / near * fy], [0, 0, 1]])


@pytest.mark.parametrize("seed", range(25))
def test_as_mujoco_compiles_it(seed):
    mujoco = pytest.importorskip("mujoco")
    writer = Writer(seed)
    read = fixed_cameras(writer.text, file=FILE)
    model = mujoco.MjModel.from_xml_string(writer.text)
    data = mujoco.MjData(model)
    mujoco.mj_forward(model, data)
    assert model.ncam == writer.count == len(read.fixed) + len(read.others)
    for index in range(model.ncam):
        name = model.camera(index).name
        body = model.cam_bodyid[index]
        assert (name in read.fixed) == (model.body_weldid[body] == 0)
        if name in read.fixed:
            world_from_cam = np.eye(4)
            world_from_cam[:3, :3] = data.cam_xmat[index].reshape(3, 3)
            world_from_cam[:3, 3] = data.cam_xpos[index]
            expected = np.linalg.inv(world_from_cam * CV_FROM_GL)
            assert np.abs(read.fixed[name].viewmat - expected).max() < 1e-9, (name, writer.text)
            K = read.fixed[name].intrinsics(width=64, height=48)
            assert np.abs(K - frustum_matrix(mujoco, model, data, index)).max() < 2e-3, (name, writer.text)


def model(camera, *, around="{}", compiler=""):
    return f"<mujoco>{compiler}<worldbody>{around.format(camera)}</worldbody></mujoco>"


@pytest.mark.parametrize(
    ("camera", "around", "why"),
    [
        ('<camera name="a" mode="trackcom"/>', "{}", "trackcom"),
        ('<camera name="a" mode="targetbody" target="b"/>', "{}", "targetbody"),
        ('<camera name="a"/>', '<body name="arm"><joint/><body>{}</body></body>', "'arm', which moves"),
        ('<camera name="a"/>', '<body name="hand" mocap="true">{}</body>', "'hand', which moves"),
        ('<camera name="a"/>', '<body name="cube"><freejoint/>{}</body>', "'cube', which moves"),
        ('<camera name="a" orthographic="true"/>', "{}", "orthographic"),
        ('<camera name="a"/>', '<replicate count="3" offset="1 0 0">{}</replicate>', "repeated"),
    ],
)
def test_cameras_without_a_pose_of_their_own_are_named(camera, around, why):
    read = fixed_cameras(model(camera, around=around), file=FILE)
    assert not read.fixed and why in read.others["a"]


@pytest.mark.parametrize(
    ("text", "kind", "words"),
    [
        (model('<include file="/etc/passwd"/>'), SecurityError, "other files.*include"),
        (model("", compiler='<asset><model file="a.xml"/></asset>'), SecurityError, "other files.*model"),
        (model('<camera name="a" euler="1 2"/>'), CalibrationError, "a euler"),
        (model('<camera name="a" xyaxes="1 0 0 2 0 0"/>'), CalibrationError, "camera a xyaxes: is no orientation"),
        (model('<camera name="a" zaxis="0 0 0"/>'), CalibrationError, "camera a zaxis: is no orientation"),
        (model('<camera name="a" quat="0 0 0 0"/>'), CalibrationError, "camera a quat: is no orientation"),
        (model('<camera name="a" fovy="200"/>'), CalibrationError, "fovy 200"),
        (model('<camera name="a" class="x"/>'), CalibrationError, "no class of defaults"),
        (model('<camera name="a" sensorsize="1 1"/>'), CalibrationError, "no focal length"),
        (
            model('<camera name="a" pos="1.7e308 0 0"/>', around='<body pos="1.7e308 0 0">{}</body>'),
            CalibrationError,
            "camera a: is too far",
        ),
        (model("", compiler='<compiler eulerseq="xyw"/>'), CalibrationError, "eulerseq"),
        (model("", compiler='<compiler angle="turn"/>'), CalibrationError, "degree or radian"),
        (model("", compiler='<compiler coordinate="global"/>'), CalibrationError, "local coordinates"),
    ],
)
def test_faults(text, kind, words):
    with pytest.raises(kind, match=words) as caught:
        fixed_cameras(text, file=FILE)
    assert caught.value.file == str(FILE) and caught.value.exit_code == 3


def test_a_body_in_a_body_in_a_body():
    deep = "<body>" * 5000 + '<camera name="a"/>' + "</body>" * 5000
    assert list(fixed_cameras(model(deep), file=FILE).fixed) == ["a"]
