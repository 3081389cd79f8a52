"""Two hundred frames at a fixed cap: memory stays flat, and the .s4d holds all that the memory let go."""

from __future__ import annotations

import dataclasses
import importlib.util
import sys
from pathlib import Path

import pytest
import torch
from turning_box import TurningBox

from scene4d.errors import ResourceError
from scene4d.gaussians.s4d.s4d import open_s4d
from scene4d.gaussians.s4d.s4d_growing import GrowingS4D
from scene4d.lift.stream.stream import SceneStream, StreamConfig

ROOT = Path(__file__).parents[2]
QUICK = StreamConfig(polish_first=0, polish=0)


@pytest.fixture(autouse=True)
def _one_thread():
    torch.set_num_threads(1)  # pictures this small are not worth a second one


@pytest.fixture(scope="module")
def bench():
    spec = importlib.util.spec_from_file_location("bench_streaming", ROOT / "scripts" / "bench_streaming.py")
    module = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(ROOT / "scripts")
        patch.setitem(sys.modules, "bench_streaming", module)
        spec.loader.exec_module(module)
        yield module


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="resident memory is read from /proc")
def test_memory_is_flat_over_two_hundred_frames(bench, tmp_path):
    case = bench.StreamCase(frames=200, size=16, cap=450, polish=0)
    figures = bench.stream_once(case, tmp_path / "a.s4d")
    assert figures["mb_a_frame"] < 0.05
    assert figures["frames_in_file"] == 200
    # The cap binds: more lived, and is in the file, than memory ever held.
    assert figures["rows_in_file"] > figures["rows_in_memory"]
    assert figures["rows_in_memory"] <= 2 * case.cap


def test_what_memory_lets_go_is_in_the_file(tmp_path):
    """A stream with a short memory and a growing file says of the past what one that keeps everything says."""
    box, count = dataclasses.replace(TurningBox(), size=32), 11
    whole = SceneStream(QUICK)
    with GrowingS4D(tmp_path / "a.s4d") as history:
        short = SceneStream(dataclasses.replace(QUICK, keep_instants=3), history=history)
        for t in range(count):
            for stream in (whole, short):
                stream.update(box.frames(t), time=0.1 * t)
        assert len(short.times) < 6 and history.num_frames == count - len(short.times)
        history.save(short.scene())
    expected, file = whole.scene(), open_s4d(tmp_path / "a.s4d")
    found = file.scene()
    order, wanted = found.base.ids.argsort(), expected.base.ids.argsort()
    assert torch.equal(found.base.ids[order], expected.base.ids[wanted])
    assert torch.equal(found.alive[order], expected.alive[wanted])
    assert torch.equal(found.times, expected.times)
    for time in (0.0, 0.35, 1.0):
        a, b = found.at(time), expected.at(time)
        torch.testing.assert_close(a.means[order], b.means[wanted], atol=1e-6, rtol=0)
        assert torch.equal(a.opacities[order] > 0, b.opacities[wanted] > 0)
    assert torch.equal(file.frame(4).ids, found.base.ids)  # one instant, read without the others


def test_without_a_history_the_far_past_is_forgotten():
    box = dataclasses.replace(TurningBox(), size=24)
    stream = SceneStream(dataclasses.replace(QUICK, keep_instants=2))
    for t in range(6):
        stream.update(box.frames(t), time=0.1 * t)
    scene = stream.scene()
    assert scene.times.tolist() == pytest.approx([0.4, 0.5])
    assert bool((scene.alive[:, 1] >= 0.4 - 1e-9).all())
    flow, valid = scene.flow(0.4, 0.5)
    assert bool(valid.any()) and float(flow[valid].norm(dim=-1).max()) > 0.005


class Failing(GrowingS4D):
    """A history whose disk is full at first."""

    failures = 2

    def append(self, piece):
        if self.failures:
            self.failures -= 1
            raise ResourceError("cannot be written", file=self.path)
        super().append(piece)


def told_by(path, config, *, history=GrowingS4D, count=9):
    """The scene in the file after `count` frames, and how often the history failed."""
    box, failed = dataclasses.replace(TurningBox(), size=24), 0
    with history(path) as file:
        stream = SceneStream(config, history=file)
        for t in range(count):
            try:
                stream.update(box.frames(t), time=0.1 * t)
            except ResourceError:
                failed += 1
        file.save(stream.scene())
        assert file.num_frames == count - len(stream.times) > 0
    return open_s4d(path).scene(), failed


def assert_same_history(a, b):
    first, second = a.base.ids.argsort(), b.base.ids.argsort()
    assert torch.equal(a.base.ids[first], b.base.ids[second])
    assert torch.equal(a.alive[first], b.alive[second]) and torch.equal(a.times, b.times)
    for time in a.times.tolist():
        torch.testing.assert_close(a.at(time).means[first], b.at(time).means[second], atol=1e-6, rtol=0)


def test_a_history_that_could_not_be_written_loses_nothing(tmp_path):
    """What was not taken stays in memory and is handed over by a later update."""
    config = dataclasses.replace(QUICK, keep_instants=2)
    expected, never = told_by(tmp_path / "a.s4d", config)
    found, failed = told_by(tmp_path / "b.s4d", config, history=Failing)
    assert (never, failed) == (0, 2)
    assert_same_history(found, expected)


def test_rows_that_wait_for_the_history_are_not_forgotten(tmp_path):
    config = dataclasses.replace(QUICK, keep_instants=3)
    expected, _ = told_by(tmp_path / "a.s4d", config)
    assert int(torch.isfinite(expected.alive[:, 1]).sum()) > 10, "rows end meanwhile"
    found, _ = told_by(tmp_path / "b.s4d", dataclasses.replace(config, max_past=1))
    assert_same_history(found, expected)
