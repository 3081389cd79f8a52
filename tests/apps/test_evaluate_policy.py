"""`eval policy`: pairs on the same seeds, refused questions, videos, the same rollouts in any number of processes."""

import dataclasses

import pytest
import torch
from tiny_agent import SIDE, TASKS, tiny_models

from scene4d.apps.compose.models import save_models
from scene4d.apps.verbs import evaluate_policy
from scene4d.apps.verbs.evaluate_policy import EvalPolicyOptions, run_eval_policy
from scene4d.errors import ConfigError

QUICK = {"seeds": (1000, 1001), "tasks": TASKS[:1], "max_frames": 2}


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    models, path = tiny_models(), tmp_path_factory.mktemp("weights") / "tiny.safetensors"
    save_models(path, models, info={**models.info, "policy_size": SIDE})
    return path


def test_pairs_are_on_the_same_seeds_and_videos_are_kept(weights, tmp_path):
    pytest.importorskip("metaworld", reason="the simulator is not installed")
    found = run_eval_policy(EvalPolicyOptions(weights=weights, paired=True, videos=tmp_path, **QUICK))
    assert found["num_rollouts"] == found["without_forecast"]["num_rollouts"] == found["difference"]["num_pairs"] == 2
    assert found["tasks"][TASKS[0]]["failures"] == {"stuck": [1000, 1001]}
    assert sorted(p.name for p in tmp_path.iterdir()) == [f"{TASKS[0]}_{s}_failure.mp4" for s in (1000, 1001)]


def test_processes_change_nothing(weights):
    pytest.importorskip("metaworld", reason="the simulator is not installed")
    options = EvalPolicyOptions(weights=weights, forecast=False, **QUICK)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    here = evaluate_policy._rollouts(options, tasks=TASKS[:1], seeds=(1000, 1001))
    torch.set_num_threads(threads)
    there = evaluate_policy._rollouts(dataclasses.replace(options, processes=2), tasks=TASKS[:1], seeds=(1000, 1001))
    assert [(r.seed, r.success) for r in here] == [(r.seed, r.success) for r in there]
    assert all(torch.equal(a.actions, b.actions) for a, b in zip(here, there, strict=True))


@pytest.mark.parametrize(
    ("wrong", "field"),
    [
        ({"seeds": (3, 2)}, "seeds"),
        ({"processes": 0}, "processes"),
        ({"paired": True, "forecast": False}, "paired"),
        ({"max_frames": 300}, "max_frames"),
        ({"tasks": ("hammer-v3",)}, "hammer-v3"),
    ],
)
def test_refused_before_anything_runs(weights, wrong, field):
    with pytest.raises(ConfigError, match=field):
        run_eval_policy(EvalPolicyOptions(weights=weights, **{**QUICK, **wrong}))
