"""scripts/results.sh: every command that it prints parses, and every table of docs/results names its command."""

from __future__ import annotations

import argparse
import os
import re
import runpy
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from scene4d.apps.cli import EVAL_VERBS, VERBS
from scene4d.apps.terminal.arguments import parse_options
from scene4d.apps.training.run_config import RunConfig
from scene4d.config import load_config

ROOT = Path(__file__).parents[1]
SCRIPT = ROOT / "scripts" / "results.sh"
RESULTS = sorted((ROOT / "docs" / "results").glob("*.md"))


def printed(*arguments: str) -> str:
    return subprocess.run(["bash", str(SCRIPT), *arguments], capture_output=True, text=True, check=True).stdout


def commands() -> dict[str, list[str]]:
    """{name of the table: its commands}"""
    found: dict[str, list[str]] = {}
    for line in printed("--dry-run", "all").splitlines():
        if line.startswith("# "):
            rows = found.setdefault(line[2:], [])
        else:
            rows.append(line)
    return found


COMMANDS = commands()


class _Parsed(Exception):
    """The arguments of a script were understood."""


def options_of(words: list[str]):
    """The options of a verb, as the command line makes them."""
    verb, rest = (EVAL_VERBS[words[1]], words[2:]) if words[0] == "eval" else (VERBS[words[0]], words[1:])
    return parse_options(verb.options_class(), rest, prog="scene4d", description="")


@pytest.mark.parametrize("command", [c for rows in COMMANDS.values() for c in rows])
def test_every_command_parses(command, monkeypatch):
    words = [word for word in shlex.split(command) if not re.fullmatch(r"[A-Z_]+=\S*", word)]
    monkeypatch.chdir(ROOT)
    if words[0] == "scene4d":
        options = options_of(words[1:])
        if words[1] == "train":
            load_config(options.config, RunConfig, overrides=options.set)
        return
    assert words[0] == "python" and words[1].startswith("scripts/")
    parse = argparse.ArgumentParser.parse_args

    def parse_and_stop(self, *args, **kwargs):
        parse(self, *args, **kwargs)
        raise _Parsed

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", parse_and_stop)
    monkeypatch.setattr(sys, "argv", words[1:])
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    with pytest.raises(_Parsed):
        runpy.run_path(words[1], run_name="__main__")


def test_the_list_says_how_long_each_takes_and_what_it_needs():
    rows = [[cell.strip() for cell in line.split("|")] for line in printed().splitlines()[1:]]
    assert [row[0] for row in rows] == list(COMMANDS) and all(len(row) == 3 and all(row) for row in rows)


def test_every_script_that_measures_has_a_row():
    run = re.findall(r"python (\S+)", "\n".join(command for rows in COMMANDS.values() for command in rows))
    assert set(run) == {f"scripts/{path.name}" for path in (ROOT / "scripts").glob("*.py")}


def test_a_wrong_name_runs_nothing():
    done = subprocess.run(["bash", str(SCRIPT), "raster", "nothing"], capture_output=True, text=True)
    assert done.returncode == 2 and "nothing is no table" in done.stderr and not done.stdout


def test_a_run_keeps_what_is_printed_and_names_what_failed(tmp_path):
    (tmp_path / "docs" / "results").mkdir(parents=True)
    (tmp_path / "scripts").mkdir()
    shutil.copy(SCRIPT, tmp_path / "scripts")
    for name, body in (("python", "echo '{\"case\": 1}'; echo a line"), ("scene4d", "echo it fails; exit 3")):
        stub = tmp_path / "bin" / name
        stub.parent.mkdir(exist_ok=True)
        stub.write_text(f"#!/bin/sh\n{body}\n")
        stub.chmod(0o755)
    done = subprocess.run(
        ["bash", "scripts/results.sh", "raster", "train-smoke"],
        cwd=tmp_path, env={"PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}"}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 1 and "failed: train-smoke" in done.stderr
    assert "it fails" in (tmp_path / "out" / "results" / "train-smoke.txt").read_text()
    assert (tmp_path / "docs" / "results" / "raster.jsonl").read_text() == '{"case": 1}\n'


def test_every_name_has_its_place_in_the_documents_and_the_other_way_round():
    named = set(re.findall(r"`scripts/results\.sh ([a-z][a-z0-9-]*)", "\n".join(p.read_text() for p in RESULTS)))
    assert named == set(COMMANDS)


@pytest.mark.parametrize("path", RESULTS, ids=lambda p: p.name)
def test_every_table_of_figures_names_its_command(path):
    """Each section with a table names a row of the script, or its command, before the next heading."""
    for section in re.split(r"^## ", path.read_text(), flags=re.MULTILINE)[1:]:
        if re.search(r"^\|-", section, re.MULTILINE) and not section.startswith("Targets"):
            assert re.search(r"scripts/(results|[a-z_]+)\.(sh|py)|scene4d [a-z]+", section), section.splitlines()[0]
