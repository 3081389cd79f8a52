"""What computes nothing starts without torch: help, version and usage errors; `scene4d.render` is the function."""

from __future__ import annotations

import subprocess
import sys

import pytest

from scene4d.apps.cli import EVAL_VERBS, VERBS

NAMES = [*[v for v in VERBS if v != "eval"], *[f"eval {v}" for v in EVAL_VERBS]]
ALL_HELP = "; ".join(f"code({[*name.split(), '--help']})" for name in NAMES)
COUNTING = """
import contextlib, io, sys
from scene4d.apps.cli import main
def code(arguments):
    with contextlib.redirect_stdout(io.StringIO()):
        try:
            return main(arguments)
        except SystemExit as stop:
            return stop.code
"""


def printed(program: str) -> str:
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout


@pytest.mark.parametrize(
    ("calls", "expected"),
    [
        ("codes = code(['--help']), code(['--version']), code([]), code(['eval', '--help'])", (0, 0, 0, 0)),
        ("codes = code(['nonsense']), code(['eval', 'nonsense'])", (2, 2)),
        ("codes = code(['doctor', '--nonsense']), code(['forecast', 'x', '--steps', 'many'])", (2, 2)),
        ("codes = code(['train', 'x.toml', '--pixels', '--until', 'cache']), code(['act', 'x.s4d'])", (2, 2)),
        (f"codes = (); {ALL_HELP}", ()),
    ],
)
def test_torch_is_not_imported(calls, expected):
    program = f"{COUNTING}\n{calls}\nprint(codes, [m for m in ('torch', 'numpy', 'scipy') if m in sys.modules])"
    assert printed(program).strip() == f"{expected} []"


@pytest.mark.parametrize(
    "imports",
    [
        "import scene4d.render.reference; from scene4d import *",
        "from scene4d import render; import scene4d.render.reference",
    ],
)
def test_render_is_the_function_whatever_was_imported_before(imports):
    program = f"{imports}\nimport scene4d\nfrom scene4d.render.render import render as f"
    assert printed(f"{program}\nprint(render is f, scene4d.render is f)").strip() == "True True"


def test_public_names_are_listed_and_found():
    import scene4d

    assert set(scene4d.__all__) <= set(dir(scene4d))
    assert all(getattr(scene4d, name).__name__ == name for name in scene4d.__all__)
    with pytest.raises(AttributeError, match="no attribute 'Nonsense'"):
        _ = scene4d.Nonsense
