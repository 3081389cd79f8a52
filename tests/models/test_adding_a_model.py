"""docs/adding_a_model.md, followed word by word: the model that the page makes trains, and the laws hold for it."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "adding_a_model.md").read_text()
FILES = dict(re.findall(r"<!-- file: (\S+) -->\n```\w+\n(.*?)```", PAGE, re.DOTALL))
ROW = re.search(r"```python\n(from .* as DRIFT)\n\n    (.*),\n```", PAGE)
RUFF = shutil.which("ruff", path=os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")]))
MOST_LINES = 400
PLACED = f"""
from pathlib import Path

import scene4d.models
from scene4d.models.families import FAMILIES

scene4d.models.__path__.append(str(Path(__file__).parent / "scene4d" / "models"))

{ROW and ROW[1]}

FAMILIES.update({{{ROW and ROW[2]}}})
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """The files of the page; `placed.py` puts its folder and its row where the page says."""
    root = tmp_path_factory.mktemp("page")
    for name, text in FILES.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    (root / "placed.py").write_text(PLACED)
    (root / "conftest.py").write_text("import placed\n")
    return root


def run(folder: Path, *arguments: str) -> str:
    """Python in the folder, the laws and their helpers at hand; its output."""
    places = [folder, ROOT, ROOT / "tests", ROOT / "tests" / "env"]
    path = os.pathsep.join([*map(str, places), *filter(None, [os.environ.get("PYTHONPATH")])])
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


def test_the_page_has_all_files():
    assert ROW and {Path(name).name for name in FILES} == {
        "__init__.py",
        "model.py",
        "loss.py",
        "family.py",
        "drift.toml",
        "test_drift_laws.py",
    }
    sources = [text for name, text in FILES.items() if name.startswith("scene4d/")]
    assert sum(len(text.splitlines()) for text in sources) <= MOST_LINES


@pytest.mark.skipif(RUFF is None, reason="ruff is not installed")
@pytest.mark.parametrize("command", [("check",), ("format", "--check")], ids=" ".join)
def test_its_code_is_as_ruff_wants_it(folder, command):
    rules = ["--no-cache", "--config", str(ROOT / "pyproject.toml")]
    rules += ["--config", 'lint.isort.known-first-party = ["scene4d"]']
    done = subprocess.run([RUFF, *command, *rules, "scene4d", "tests"], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_laws_hold_for_the_model_of_the_page(folder):
    out = run(folder, "-m", "pytest", "-q", "--rootdir", str(folder), "-p", "no:cacheprovider", "tests")
    assert re.search(r"\d+ passed", out) and "failed" not in out


@pytest.mark.slow
def test_it_trains_and_its_weights_name_the_family(folder):
    pytest.importorskip("metaworld", reason="Meta-World is not installed")
    code = "import sys, placed; from scene4d.apps.cli import main; sys.exit(main(sys.argv[1:]))"
    run(folder, "-c", code, "train", "configs/drift.toml", "--set", "processes=1")
    check = (
        "import placed; from scene4d.apps.compose.models import load_models; "
        "models = load_models('runs/drift/weights.safetensors'); "
        "print(models.family.name, float(models.world.gain.abs().max()) > 0)"
    )
    assert run(folder, "-c", check).strip() == "drift True"
