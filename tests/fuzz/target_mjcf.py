"""MuJoCo models as simulators store them in HDF5: XML, of which the cameras are read."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from scene4d.data.formats.hdf5.mujoco_model import fixed_cameras

SUFFIX = ".xml"


def golden() -> list[bytes]:
    """Every spelling of an orientation, bodies and frames inside each other, classes, a sensor."""
    cameras = (
        '<camera name="a" pos="1 0 1" xyaxes="0 1 0 -.6 0 .8" fovy="55"/><camera name="b" zaxis="0 0 -1" class="c"/>'
        '<camera name="d" euler="10 20 30"/><camera name="e" axisangle="0 1 0 90" mode="track"/>'
        '<camera name="f" quat="1 0 0 1" sensorsize="1 1" focal="1 2" resolution="64 48" principal=".1 0"/>'
    )
    text = (
        '<mujoco><compiler angle="degree" eulerseq="zYx"/><visual><map znear="0.01" zfar="50"/></visual>'
        '<statistic extent="2"/><default><camera fovy="40"/>'
        '<default class="c"><camera pos="0 0 2"/></default></default>'
        f"<worldbody>{cameras}"
        '<body name="g" pos="0 0 1" childclass="c"><frame euler="0 0 90"><camera name="h"/></frame></body>'
        '<body name="i"><joint/><camera name="j"/></body></worldbody></mujoco>'
    )
    return [text.encode(), text.replace("degree", "radian").replace("zYx", "xyz").encode()]


def mended(data: bytes) -> bytes:
    """XML has no checksums."""
    return data


def read(path: Path) -> None:
    """The cameras, whose numbers are then finite."""
    cameras = fixed_cameras(path.read_bytes(), file=path)
    for camera in cameras.fixed.values():
        assert np.isfinite(camera.viewmat).all() and np.isfinite(camera.intrinsics(width=64, height=48)).all()
