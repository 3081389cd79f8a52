"""Lenses: points where OpenCV itself puts them, and terms that are refused by name."""

from pathlib import Path

import numpy as np
import pytest

from scene4d.data.cameras.lens import Lens, undistort_picture
from scene4d.data.formats.posed.transforms_cameras import frame_camera, unread_keys
from scene4d.errors import CalibrationError

K = np.array([[120.0, 0, 80], [0, 120, 60], [0, 0, 1]])
POINTS = [(x, y) for x in (-0.6, -0.2, 0.3, 0.65) for y in (-0.45, 0.05, 0.4)]
# cv2.projectPoints and cv2.fisheye.projectPoints of POINTS at z = 1, OpenCV 5.0.
RATIONAL = {"k1": -0.3, "k2": 0.1, "p1": 0.001, "p2": -0.001, "k3": 0.02, "k4": 0.15, "k5": -0.05, "k6": 0.01}
RATIONAL_PIXELS = [
    *([21.625929, 16.337571], [17.680416, 65.233174], [20.765382, 99.510545], [58.308682, 11.289108]),
    *([56.432553, 65.895687], [57.906269, 104.163461], [111.806945, 12.272033], [114.538166, 65.769311]),
    *([112.394055, 103.262074], [141.799659, 17.238698], [145.781052, 65.115004], [142.671113, 98.679754]),
]
FISHEYE = {"k1": 0.05, "k2": -0.02, "k3": 0.004, "k4": -0.001}
FISHEYE_PIXELS = [
    *([17.140969, 12.855727], [14.344949, 65.471254], [16.580096, 102.279936], [57.484226, 9.339508]),
    *([56.283472, 65.929132], [57.24584, 105.50832], [113.3685, 9.94725], [115.09491, 65.849152]),
    *([113.711841, 104.949122], [147.235535, 13.452322], [150.131624, 65.39474], [147.817506, 101.73385]),
]
CAMERA = {"w": 160, "h": 120, "fl_x": 120, "cx": 80, "cy": 60}


def camera(**terms):
    return frame_camera({**CAMERA, **terms}, size=(160, 120), path=Path("transforms.json"), name="0")


@pytest.mark.parametrize(
    ("terms", "pixels"),
    [
        ({"camera_model": "FULL_OPENCV", **RATIONAL}, RATIONAL_PIXELS),
        (RATIONAL, RATIONAL_PIXELS),  # k5 and k6 tell the model
        ({"camera_model": "OPENCV_FISHEYE", **FISHEYE}, FISHEYE_PIXELS),
        ({"is_fisheye": True, **FISHEYE}, FISHEYE_PIXELS),
    ],
)
def test_points_lie_where_opencv_puts_them(terms, pixels):
    """A picture that counts its columns (or rows) shows, undistorted, where each of its pixels came from."""
    lens = camera(**terms)[1]
    assert isinstance(lens, Lens)
    columns, rows = np.meshgrid(np.arange(160) + 0.5, np.arange(120) + 0.5)
    seen = np.stack([columns, rows, rows * 0], -1)
    shown = undistort_picture(seen.round().astype(np.uint8), lens, K=K)
    for (x, y), (u, v) in zip(POINTS, pixels, strict=True):
        column, row = int(120 * x + 80), int(120 * y + 60)
        pixel = shown[row, column].astype(float)
        assert abs(pixel[0] - u) < 1.6 and abs(pixel[1] - v) < 1.6 and pixel[3] == 255


REFUSED = {
    "k4 of a lens that may be nerfstudio's": ({"k4": 0.1}, "k4"),
    "k7": ({"k7": 0.01}, "k7"),
    "thin prism": ({"camera_model": "FULL_OPENCV", **RATIONAL, "s1": 1e-3}, "s1"),
    "tangential terms of a fisheye": ({"camera_model": "OPENCV_FISHEYE", **FISHEYE, "p1": 1e-3}, "p1"),
    "k5 of a fisheye": ({"camera_model": "FISHEYE", **FISHEYE, "k5": 1e-3}, "k5"),
    "a list": ({"distortion_params": [0.1, 0, 0, 0]}, "distortion_params"),
    "coefficients under another name": ({"dist_coeffs": {"k1": 0.2}}, "dist_coeffs"),
    "affinity": ({"b1": 2.0}, "b1"),
    "skew": ({"skew": 0.3}, "skew"),
    "a model": ({"camera_model": "THIN_PRISM_FISHEYE"}, "camera_model"),
    "a panorama": ({"camera_model": "EQUIRECTANGULAR"}, "camera_model"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_unknown_terms_are_refused_by_name(name):
    terms, field = REFUSED[name]
    with pytest.raises(CalibrationError) as caught:
        camera(**terms)
    assert caught.value.field == field and caught.value.file == "transforms.json" and caught.value.exit_code == 3


def test_terms_that_are_zero_bend_nothing():
    assert camera(k4=0.0, k5=0, s1=0.0, distortion=[0, 0], skew=0)[1] is None


def test_entries_that_nobody_reads_are_listed():
    doubtful, others = unread_keys({**CAMERA, "rolling_shutter_time": 0.01, "aabb_scale": 16}, [{"sharpness": 3.0}])
    assert doubtful.names == ("rolling_shutter_time",) and doubtful.lost
    assert others.names == ("aabb_scale", "sharpness") and not others.lost
