"""The command line's contract: help, exit codes, one line an error, JSON errors, one JSON line at the end."""

from __future__ import annotations

import io
import json
import math

import pytest

from scene4d.apps.cli import EVAL_VERBS, VERBS, json_line, main
from scene4d.apps.verbs import run_doctor as doctor
from scene4d.errors import DepthError


@pytest.fixture
def exit_code(capsys):
    def run(*arguments: str) -> tuple[int, str, str]:
        try:
            code = main(list(arguments))
        except SystemExit as stop:
            code = stop.code
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


def test_help_lists_every_verb(exit_code):
    code, out, _ = exit_code("--help")
    assert code == 0
    assert all(verb in out for verb in VERBS)


@pytest.mark.parametrize("verb", [*[v for v in VERBS if v != "eval"], *[f"eval {v}" for v in EVAL_VERBS]])
def test_every_verb_explains_its_options(exit_code, verb):
    code, out, _ = exit_code(*verb.split(), "--help")
    assert code in (0, None)
    assert f"scene4d {verb}" in out


@pytest.mark.parametrize(
    "arguments",
    [
        ("nonsense",),
        ("eval", "nonsense"),
        ("doctor", "--nonsense"),
        ("train", "x.toml", "--until", "polcy"),
        ("convert", "x", "--fit", "stretch"),
        ("reconstruct", "x", "--from-pictures", "--fused"),
        ("reconstruct", "x", "--from-pictures", "--fit", "--depth-weights", "y"),
    ],
)
def test_wrong_usage_exits_with_2_in_one_line(exit_code, arguments):
    code, out, err = exit_code(*arguments)
    assert code == 2 and out == "" and len(err.strip().splitlines()) == 1
    code, _, err = exit_code(*arguments, "--json-errors")
    assert code == 2 and json.loads(err)["error"]["code"] == "ConfigError"


@pytest.mark.parametrize(
    ("arguments", "reply"),
    [
        ("act x.s4d", "act: the following arguments are required: --task"),
        ("forecast x --ste 3", "perhaps --steps or --sampler-steps was meant"),
        ("forecast x --steps a", "--steps: invalid int value: 'a'"),
        ("render x --size 3", "--size: expected 2 arguments"),
        ("rendre x", "render"),
    ],
)
def test_usage_errors_name_the_fix(exit_code, arguments, reply):
    _, _, err = exit_code(*arguments.split())
    assert reply in err and "--help" in err


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        RuntimeError("[enforce fail at alloc_cpu.cpp:118] DefaultCPUAllocator: can't allocate memory"),
        RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB"),
    ],
)
def test_a_lack_of_memory_is_a_lack_of_resources(exit_code, monkeypatch, error):
    def greedy(_):
        raise error

    monkeypatch.setattr(doctor, "run_doctor", greedy)
    code, _, err = exit_code("doctor", "--json-errors")
    assert code == 4 and json.loads(err)["error"]["code"] == "ResourceError"


def test_missing_input_is_one_line_and_exits_with_3(exit_code, tmp_path):
    code, out, err = exit_code("reconstruct", str(tmp_path / "nowhere"), "-o", str(tmp_path / "scene.s4d"))
    assert code == 3
    assert out == ""
    assert len(err.strip().splitlines()) == 1
    assert "nowhere" in err
    assert not (tmp_path / "scene.s4d").exists()


def test_json_errors_hold_the_fields(exit_code, tmp_path):
    code, _, err = exit_code("reconstruct", str(tmp_path / "nowhere"), "-o", str(tmp_path / "x.s4d"), "--json-errors")
    error = json.loads(err.strip().splitlines()[-1])["error"]
    assert code == 3
    assert {"code", "file", "field", "frame", "found", "expected", "fix", "problem"} <= set(error)


def test_doctor_ends_with_one_json_line(exit_code):
    code, out, _ = exit_code("doctor")
    facts = json.loads(out.strip().splitlines()[-1])
    assert code == 0
    assert facts["native"] == "ok"


class Terminal(io.StringIO):
    """Standard output that is a terminal."""

    def isatty(self) -> bool:
        return True


def test_people_get_a_table_and_programs_get_json(exit_code, monkeypatch):
    rows = {"ours": {"psnr": 30.0}, "copy": {}}
    result = {"output": "a.s4d", "views": 3, "psnr": 31.2345678, "rows": rows, "no": None}
    monkeypatch.setattr(doctor, "run_doctor", lambda _: result)
    monkeypatch.delattr(doctor, "text_of")
    assert json.loads(exit_code("doctor")[1]) == result, "JSON and nothing else"
    shown = Terminal()
    monkeypatch.setattr("sys.stdout", shown)
    assert main(["doctor"]) == 0
    lines = shown.getvalue().splitlines()
    assert lines[0].split() == ["output", "a.s4d"] and lines[2].split() == ["psnr", "31.23"]
    assert [line.split() for line in lines[-3:]] == [["psnr"], ["ours", "30"], ["copy", "-"]]
    assert not any("null" in line or "None" in line or "{" in line for line in lines)
    monkeypatch.setattr("sys.stdout", shown := Terminal())
    assert main(["doctor", "--json"]) == 0 and json.loads(shown.getvalue()) == result


def refuse_constant(name):
    raise AssertionError(f"{name} is no JSON")


def test_last_lines_are_json_whatever_the_numbers(exit_code, monkeypatch):
    result = {"psnr": math.nan, "rows": [(1.0, math.inf), {"deep": -math.inf}], "count": 3, "ok": True, "name": "NaN"}
    monkeypatch.setattr(doctor, "run_doctor", lambda _: result)
    code, out, _ = exit_code("doctor")
    assert code == 0
    assert json.loads(out.strip().splitlines()[-1], parse_constant=refuse_constant) == {
        "psnr": None,
        "rows": [[1.0, None], {"deep": None}],
        "count": 3,
        "ok": True,
        "name": "NaN",
    }
    assert json_line({"a": 0.1, "b": [], "c": {}}) == json.dumps({"a": 0.1, "b": [], "c": {}})


def test_json_errors_say_what_was_found(exit_code, monkeypatch):
    def fail(_):
        raise DepthError("is no depth", field="depth", found=math.nan)

    monkeypatch.setattr(doctor, "run_doctor", fail)
    code, _, err = exit_code("doctor", "--json-errors")
    error = json.loads(err.strip().splitlines()[-1], parse_constant=refuse_constant)["error"]
    assert code == 3 and error["found"] == "nan"
