"""docs/s4d.md is true: its code, run on files that we wrote, finds what was written, with numpy and nothing else."""

from __future__ import annotations

import json
import re
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from test_s4d import make_scene

from scene4d.gaussians.s4d.container import MAX_DIRECTORY, MAX_JSON, MAX_MEMBERS, MEMBER_NAME
from scene4d.gaussians.s4d.s4d import write_s4d
from scene4d.geometry.camera import orbit

DOCUMENT = Path(__file__).parents[2] / "docs" / "s4d.md"


@pytest.fixture(scope="module")
def reader():
    code = re.search(r"```python\n(.*?)```", DOCUMENT.read_text(), re.DOTALL).group(1)
    imported = set(re.findall(r"^import (\w+)", code, re.MULTILINE))
    assert imported == {"hashlib", "json", "zipfile", "numpy"} and "from " not in code
    names: dict = {}
    exec(compile(code, str(DOCUMENT), "exec"), names)
    return names


@pytest.mark.parametrize("shape", [{}, {"residual": False, "log_var": False, "k": 1}])
def test_the_code_of_the_document_reads_our_file(tmp_path, reader, shape):
    scene = make_scene(**shape)
    write_s4d(tmp_path / "a.s4d", scene)
    manifest, base, frames = reader["read_s4d"](tmp_path / "a.s4d", range(4))
    for name in ("means", "quats", "scales", "opacities", "sh", "ids"):
        assert np.array_equal(base[name], getattr(scene.base, name).numpy())
    assert np.array_equal(base["extras/segments"], scene.base.extras["segments"].numpy())
    assert np.array_equal(base["times"], scene.times.numpy()) and base["times"].dtype == np.float64
    assert np.array_equal(base["observed"], scene.observed.numpy())
    assert [manifest[f"num_{k}"] for k in ("gaussians", "anchors", "frames")] == [20, 3, 4]
    assert ("log_var" in frames[0]) == shape.get("log_var", True)
    for index, frame in enumerate(frames):
        ours = scene.at(float(scene.times[index])).means.numpy()
        np.testing.assert_allclose(reader["places"](base, frame), ours, atol=2e-5)
        assert np.abs(ours - base["means"]).max() > 0.1  # something moved


def test_names_tables_and_limits_are_those_of_the_code(tmp_path, reader):
    scene = make_scene()
    cameras = {"front": orbit(torch.zeros(3), radius=1.0, elevation=0.3, num_views=4, width=64, height=48)}
    write_s4d(tmp_path / "a.s4d", scene, cameras=cameras, actions=torch.zeros(3, 2))
    text = DOCUMENT.read_text()
    manifest, base, frames = reader["read_s4d"](tmp_path / "a.s4d", [0])
    rows = re.findall(r"^\| ((?:`[\w./]+`(?:, )?)+) \|", text, re.MULTILINE)
    documented = {name for row in rows for name in re.findall(r"`([\w./]+)`", row)}
    assert set(manifest) <= documented
    for names, prefix in ((base, "extras/"), (frames[0], "residual/")):
        written = {f"{prefix}NAME" if name.startswith(prefix) else name for name in names}
        assert written <= documented
    with zipfile.ZipFile(tmp_path / "a.s4d") as archive:
        entries = archive.infolist()
        stored = json.loads(archive.read("cameras.json"))
    members = {re.sub(r"\d{4}", "NNNN", e.filename) for e in entries}
    assert members <= documented and all(e.compress_type == 0 for e in entries)
    assert set(stored["front"]) == {"viewmats", "Ks", "width", "height", "dtype"}
    assert f"more than {MAX_MEMBERS:,} of them" in text and f"longer than {MAX_DIRECTORY / 1e6:g} MB" in text
    assert f"longer than {MAX_JSON >> 20} MiB" in text and MEMBER_NAME.pattern.startswith("[A-Za-z0-9_][A-Za-z0-9_.-]*")
