"""Small inputs for every verb that writes, and runs of them in processes that are forked off: Python starts once."""

from __future__ import annotations

import hashlib
import importlib
import io
import json
import os
import shutil
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from data_fixtures import lerobot_set

from scene4d.apps import cli
from scene4d.apps.compose.assets import DEMO_EPISODE
from scene4d.train.checkpoint import load_tensors

OLD = b"what stood here before\n"
TRAIN = """
name = "small"
threads = 1
[record]
sources = [{source}]
size = 32
cameras = ["left", "right"]
[cache]
window_stride = 12
num_inputs = 1
[vae.train]
steps = 6
log_every = 1
checkpoint_every = 2
[dynamics]
batch_size = 2
[dynamics.train]
steps = 6
log_every = 1
checkpoint_every = 2
"""
for part in ("proprio", "intent", "completion"):
    TRAIN += f"[dynamics.{part}]\nsteps = 4\nlog_every = 1\ncheckpoint_every = 2\n"


@dataclass(frozen=True)
class Work:
    """A verb with its arguments, and what it leaves in the folder `output`."""

    verb: str
    arguments: tuple[str, ...]
    old: tuple[str, ...] = ()
    """Files that stand there before, and are replaced by a whole new one or stay."""
    grows: bool = False
    """Its output is a folder that one may look into meanwhile: a run of training."""


@dataclass(frozen=True)
class Whole:
    """What an undisturbed run leaves."""

    seconds: float
    paths: list[str]
    """All of them, hidden ones too."""
    entries: dict[str, str] = field(default_factory=dict)
    """Digest of each entry of the output folder."""


def loaded() -> None:
    """Import what the verbs need, so that children that are forked off start at once."""
    torch.set_num_threads(1)
    for verb in ("convert", "record", "reconstruct", "export", "forecast", "train"):
        importlib.import_module(f"scene4d.apps.verbs.run_{verb}")


def inputs(folder: Path, verbs: Sequence[str] = ()) -> dict[str, Work]:
    """Make the inputs of these verbs (by default of all) in a new folder; {verb: work} of outputs in folder/output."""
    folder.mkdir(parents=True)
    out, source = folder / "output", str(DEMO_EPISODE)
    in_child(lambda: lerobot_set(folder / "set") and None)
    (folder / "train.toml").write_text(TRAIN.format(source=json.dumps(source)))
    little = ("--max-frames", "3", "--size", "32", "--cameras", "left")
    if not verbs or {"export", "forecast"} & {*verbs}:
        assert run("reconstruct", source, "-o", str(folder / "scene.s4d"), *little)[0] == 0
    scene = str(folder / "scene.s4d")
    works = (
        Work("convert", (str(folder / "set"), "-o", str(out / "copy"))),
        Work("record", ("-o", str(out / "recorded"), "--episodes", "1", "--frames", "3", "--size", "32",
                        "--cameras", "left", "right")),
        Work("reconstruct", (source, "-o", str(out / "made.s4d"), *little), old=("made.s4d",)),
        Work("export", (scene, "-o", str(out / "points.ply"), "--every", "1")),
        Work("forecast", (scene, "-o", str(out / "future.s4d"), "--weights", "tiny", "--steps", "2"),
             old=("future.s4d", "future.flow.npz", "future_points/0000.ply", "future_points/0099.ply")),
        Work("train", (str(folder / "train.toml"), "--out", str(out / "run")), grows=True),
    )  # fmt: skip
    return {work.verb: work for work in works if not verbs or work.verb in verbs}


def fresh(out: Path, work: Work) -> None:
    """An output folder as it is before a run."""
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir()
    for name in work.old:
        (out / name).parent.mkdir(exist_ok=True)
        (out / name).write_bytes(OLD)


def started(*arguments: str, prepare: Callable[[], None] = lambda: None) -> int:
    """Fork a child that runs `scene4d ARGUMENTS`, quietly; its process id."""
    child = os.fork()
    if child:
        return child
    code = 70
    try:
        quiet()
        prepare()
        code = cli.main([*arguments, "--json"])
    finally:
        os._exit(code)


def quiet() -> None:
    """Say nothing any more, on standard output and standard error."""
    silent = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silent, 1)
    os.dup2(silent, 2)


def run(*arguments: str, prepare: Callable[[], None] = lambda: None) -> tuple[int, float]:
    """Run a verb to its end: exit code (or minus the signal) and seconds."""
    start = time.monotonic()
    status = os.waitpid(started(*arguments, prepare=prepare), 0)[1]
    return os.waitstatus_to_exitcode(status), time.monotonic() - start


def in_child(act: Callable[[], Any]) -> Any:
    """What `act` returns (JSON-ready) in a process of its own."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        code = 70
        try:
            os.write(writing, json.dumps(act()).encode())
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        data = pipe.read()
    assert os.waitpid(child, 0)[1] == 0, "the child failed"
    return json.loads(data)


def whole(work: Work, out: Path) -> Whole:
    """Run undisturbed, and look at what it leaves."""
    fresh(out, work)
    code, seconds = run(work.verb, *work.arguments)
    assert code == 0, f"{work.verb} ends with {code}"
    return Whole(seconds, paths=all_paths(out), entries=entries(out, work))


def all_paths(folder: Path) -> list[str]:
    """Everything in a folder, hidden or not."""
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def entries(out: Path, work: Work) -> dict[str, str]:
    """A digest of the content of each entry that can be seen; of a folder that grows, of each file in it."""
    seen = [path for path in sorted(out.iterdir()) if not path.name.startswith(".")]
    if work.grows:
        names = (str(file.relative_to(out)) for path in seen for file in sorted(path.rglob("*")) if file.is_file())
        # What lies in a draft is half-written, and not to be seen.
        return {name: _digest(out / name, work) for name in names if "/." not in name}
    return {path.name: _digest(path, work) for path in seen}


def _digest(place: Path, work: Work) -> str:
    files = [place] if place.is_file() else sorted(p for p in place.rglob("*") if p.is_file())
    digest = hashlib.sha256()
    for file in files:
        digest.update(str(file.relative_to(place.parent)).encode() + b"\0" + _content(file, work))
    return digest.hexdigest()


def _content(file: Path, work: Work) -> bytes:
    """The bytes of a file without what says how long it took or how often it was begun."""
    if file.name == "report.json":
        return json.dumps({k: v for k, v in json.loads(file.read_text()).items() if k != "resumed"}).encode()
    if work.grows and file.suffix == ".safetensors":
        stream = io.BytesIO()
        for name, values in sorted(load_tensors(file)[0].items()):
            stream.write(name.encode() + values.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
        return stream.getvalue()
    return b"" if work.grows and file.name == "stage.json" else file.read_bytes()
