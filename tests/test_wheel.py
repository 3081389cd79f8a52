"""The wheel, in an environment of its own and away from the sources, runs the demo."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import venv
from pathlib import Path

import numpy
import pytest
import torch

ROOT = Path(__file__).parents[1]
MAX_BYTES = 12_000_000


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_wheel_runs_the_demo_in_an_empty_folder(tmp_path):
    if not any(map(shutil.which, ("c++", "g++", "clang++"))):
        pytest.skip("no C++ compiler")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    build = [*pip, "wheel", "--no-deps", "-w", str(tmp_path), "-C", f"build-dir={tmp_path / 'build'}", str(ROOT)]
    made = subprocess.run(build, capture_output=True, text=True)
    if made.returncode and "No matching distribution found for" in made.stdout + made.stderr:
        pytest.skip("the tools that build a wheel cannot be had here")
    assert made.returncode == 0, made.stderr[-2000:]
    (wheel,) = tmp_path.glob("scene4d-*.whl")
    assert wheel.stat().st_size < MAX_BYTES

    home, empty = tmp_path / "env", tmp_path / "empty"
    venv.create(home, with_pip=False, symlinks=True)
    empty.mkdir()
    python = str(home / "bin" / "python")
    install = [*pip, "--python", python, "install", "--no-deps", "--no-index", "--no-compile", str(wheel)]
    subprocess.run(install, check=True, capture_output=True)
    where = subprocess.run(
        [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"], capture_output=True, text=True
    ).stdout.strip()
    # Its dependencies are those of the environment that runs the tests: only scene4d itself is under test.
    libraries = {str(Path(library.__file__).parents[1]) for library in (numpy, torch)}
    (Path(where) / "dependencies.pth").write_text("\n".join(sorted(libraries)))
    found = subprocess.run([python, "-c", "import scene4d; print(scene4d.__file__)"], cwd=empty, capture_output=True)
    assert Path(found.stdout.decode().strip()).is_relative_to(home), found.stderr.decode()
    demo = subprocess.run([home / "bin" / "scene4d", "demo"], cwd=empty, capture_output=True, text=True)
    assert demo.returncode == 0, demo.stderr[-2000:]
    assert json.loads(demo.stdout.splitlines()[-1])["horizon"]["8"]["psnr"] > 20
    assert (empty / "out" / "demo" / "index.html").stat().st_size > 100_000
