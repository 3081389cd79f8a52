"""Objects in what the scene memory makes of a simulator's frames, held against its exact segments."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def bench():
    pytest.importorskip("metaworld")
    spec = importlib.util.spec_from_file_location("bench_objects", ROOT / "scripts" / "bench_objects.py")
    module = importlib.util.module_from_spec(spec)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # pictures this small are not worth a second one
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(ROOT / "scripts")
        patch.setitem(sys.modules, "bench_objects", module)
        spec.loader.exec_module(module)
        yield module
    torch.set_num_threads(threads)


@pytest.mark.slow
def test_the_drawer_leaves_its_cabinet_and_is_no_part_of_the_robot(bench):
    options = bench.options_of(["--tasks", "drawer-open-v3", "--seeds", "7", "7", "--size", "64"])
    (case,) = bench.simulated(options)
    found = bench.run_case(case)
    own = {moment: found[moment]["groups"] for moment in ("before", "after")}
    assert own["before"]["objects"] > 0.6, "robot, cabinet and table are apart before anything moves"
    assert own["after"]["objects"] > 0.85 and own["after"]["foreground"] > 0.6
    for method in ("colour k-means", "place clusters"):
        assert found["after"][method]["objects"] < own["after"]["objects"]


def test_the_truth_of_a_point_is_the_segment_of_the_pixel_that_measures_it(bench):
    options = bench.options_of(["--tasks", "drawer-open-v3", "--seeds", "7", "7", "--size", "32", "--frames", "2"])
    (case,) = bench.simulated(options)
    points = bench.pixel_points(case.frames[0])
    truth = case.frames.extras["segments"][0, ..., 0]
    hand = points[torch.isin(truth, torch.tensor(case.robot))]
    assert float((hand - case.hands[0, 0]).norm(dim=-1).min()) < 0.06, "the robot's pixels lie at the hand"
    assert 10 not in case.robot and case.hands.shape == (2, 1, 3)


def test_the_rules_join_what_they_say(bench):
    truth = torch.tensor([0, 0, 0, 1, 1, 2, 2, 3, 3])  # 1 and 2 are links of the robot
    answer = torch.tensor([-1, -1, 5, 7, 7, 7, 7, 8, 8])  # 5 did not move
    given = {"objects": torch.where(answer == 5, -1, answer), "strict": answer, "links": answer}
    found = bench.scores(truth, given, robot=[1, 2])
    assert found["objects"] == 1.0 and found["foreground"] == 1.0
    assert found["links"] < found["strict"] < 1.0
