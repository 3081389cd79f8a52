"""The house rules that a machine can hold: sizes, names, docstrings, no pickle, no words that do not belong."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCES = sorted((ROOT / "scene4d").rglob("*.py"))
NATIVE = sorted(p for p in (ROOT / "cuda_ext").rglob("*") if p.suffix in {".h", ".cpp", ".cu", ".txt"})
SCRIPTS = sorted((ROOT / "scripts").iterdir())
FORBIDDEN_NAMES = {"utils", "common", "misc", "helpers", "base", "core", "manager"}
MAX_LINES, MAX_FUNCTION, MAX_ARGUMENTS, MAX_POSITIONAL = 400, 80, 8, 2


def _name(path: Path) -> str:
    return str(path.relative_to(ROOT))


def _functions(path: Path):
    tree = ast.parse(path.read_text())
    return [n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef)]


@pytest.mark.parametrize("path", [*SOURCES, *NATIVE, *SCRIPTS], ids=_name)
def test_file_is_short(path):
    assert len(path.read_text().splitlines()) <= MAX_LINES


@pytest.mark.parametrize("path", SOURCES, ids=_name)
def test_functions_are_short(path):
    long = {f.name: f.end_lineno - f.lineno + 1 for f in _functions(path) if f.end_lineno - f.lineno + 1 > MAX_FUNCTION}
    assert not long


@pytest.mark.parametrize("path", SOURCES, ids=_name)
def test_functions_take_few_arguments(path):
    many = [f.name for f in _functions(path) if len(f.args.args) + len(f.args.kwonlyargs) > MAX_ARGUMENTS + 1]
    assert not many, "a ninth argument means a missing noun"


@pytest.mark.parametrize("path", SOURCES, ids=_name)
def test_file_names_mean_something(path):
    assert path.stem not in FORBIDDEN_NAMES and not path.stem.endswith("_v2")


@pytest.mark.parametrize("path", SOURCES, ids=_name)
def test_public_things_are_documented(path):
    tree = ast.parse(path.read_text())
    bare = [] if ast.get_docstring(tree) else ["module"]
    for node in tree.body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef) and not node.name.startswith("_"):
            bare += [] if ast.get_docstring(node) else [node.name]
    assert not bare


@pytest.mark.parametrize("path", SOURCES, ids=_name)
def test_nothing_unpickles(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = {getattr(node, "module", None), *(alias.name for alias in node.names)}
            assert not names & {"pickle", "dill", "joblib", "shelve"}
        if isinstance(node, ast.Call):
            assert ast.unparse(node.func) != "torch.load"
            assert not any(k.arg == "allow_pickle" and ast.unparse(k.value) != "False" for k in node.keywords)


@pytest.mark.parametrize("path", [*SOURCES, *NATIVE, *SCRIPTS], ids=_name)
def test_nothing_is_left_unfinished(path):
    assert not re.search(r"\b(TODO|FIXME|XXX)\b|NotImplementedError\(\)|not implemented yet", path.read_text())


def test_one_version():
    import scene4d

    assert f'version = "{scene4d.__version__}"' in (ROOT / "pyproject.toml").read_text()
