"""The documents are true: links lead somewhere, files and verbs that they name exist, the README is short and runs."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

import pytest
import torch

from scene4d.apps.cli import EVAL_VERBS, VERBS

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
DOCUMENTS = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md"))]
# The changelog names what was, too; docs/adding_a_model.md names what its reader makes.
OF_TODAY = [p for p in DOCUMENTS if p.name not in {"CHANGELOG.md", "adding_a_model.md"}]


def _name(path: Path) -> str:
    return str(path.relative_to(ROOT))


def test_the_readme_is_short():
    assert len(README.read_text()) <= 12_000


def test_the_example_of_the_readme_runs(monkeypatch):
    code = re.search(r"```python\n(.*?)```", README.read_text(), re.DOTALL).group(1)
    assert ".read()" in code
    monkeypatch.chdir(ROOT)
    names: dict = {}
    exec(compile(code.replace(".read()", ".read(0, 14)"), str(README), "exec"), names)  # 14 of its frames: seconds
    assert names["picture"].rgb.shape[-1] == 3 and names["flow"].shape == names["now"].means.shape
    assert bool(names["valid"].any()) and bool(torch.isfinite(names["flow"][names["valid"]]).all())


@pytest.mark.parametrize("path", DOCUMENTS, ids=_name)
def test_links_lead_to_files(path):
    links = re.findall(r"\]\(([\w./-]+\.\w+)(?:#[^)]*)?\)", path.read_text())
    assert [link for link in links if not (path.parent / link).exists()] == []


@pytest.mark.parametrize("path", OF_TODAY, ids=_name)
def test_files_that_are_named_exist(path):
    named = set(re.findall(r"\b(?:scene4d|scripts|configs|tests|docs|cuda_ext)/[\w/.]*\w", path.read_text()))
    assert [n for n in named if not (ROOT / n).exists()] == []


@pytest.mark.parametrize("path", OF_TODAY, ids=_name)
def test_modules_that_are_named_exist(path):
    for name in set(re.findall(r"\bscene4d(?:\.[a-z_0-9]+)+(?:\.[A-Z]\w+)?", path.read_text())):
        parts = name.split(".")
        for depth in range(len(parts), 0, -1):
            try:
                found = importlib.import_module(".".join(parts[:depth]))
                break
            except ModuleNotFoundError:
                continue
        for attribute in parts[depth:]:
            found = getattr(found, attribute)


@pytest.mark.parametrize("path", DOCUMENTS, ids=_name)
def test_verbs_that_are_named_exist(path):
    for first, second in re.findall(r"^(?:.*`|\s*)scene4d ([a-z]+)(?: (-*[a-z]+))?", path.read_text(), re.MULTILINE):
        assert first in VERBS, first
        assert first != "eval" or second in EVAL_VERBS or second == "--help", second
