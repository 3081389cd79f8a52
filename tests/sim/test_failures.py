"""The expert fails on purpose, in the manner that is asked for, in each task that a manner fits."""

import pytest
import torch

pytest.importorskip("metaworld")

from scene4d.apps.training.record_episodes import failure_of
from scene4d.apps.training.run_config import RecordConfig
from scene4d.errors import ConfigError
from scene4d.sim import rig
from scene4d.sim.metaworld import MetaWorldSim
from scene4d.sim.recorder import record_parts
from scene4d.sim.rig import FAILURES, kinds_for


@pytest.mark.parametrize("task", rig.TRAIN_TASKS)
def test_an_episode_that_is_to_fail_fails(task):
    with MetaWorldSim(task, cameras=()) as sim:
        for kind in kinds_for(task):
            _, episode = record_parts(sim, seed=103, noise=0.1, num_frames=0, num_tail=60, failure=kind)
            assert not episode.success.any() and episode.info["failure"] == kind


def test_a_seed_fixes_a_failure_and_kinds_that_do_not_fit_are_refused():
    with MetaWorldSim("pick-place-v3", cameras=()) as sim:
        runs = [record_parts(sim, seed=s, num_frames=0, num_tail=40, failure="drops")[1] for s in (4, 4, 5)]
        assert torch.equal(runs[0].actions, runs[1].actions) and not torch.equal(runs[0].actions, runs[2].actions)
        height = runs[0].segment_poses[:, 10, 6]
        assert height.max() > 0.04 and height[-1] < 0.03  # it was in the hand, and lies on the table again
    with MetaWorldSim("button-press-v3", cameras=()) as sim, pytest.raises(ConfigError, match="drops of button-press"):
        record_parts(sim, seed=4, num_frames=0, num_tail=1, failure="drops")


def test_a_share_of_the_training_episodes_fails_kinds_in_turn():
    config = RecordConfig(failures=FAILURES, failing_every=2)
    assert [failure_of("door-open-v3", n, config=config) for n in range(5)] == ["stops", "", "wrong_place", "", "stops"]
    assert failure_of("door-open-v3", 0, config=RecordConfig()) == ""
    with pytest.raises(ConfigError, match="are no failures"):
        RecordConfig(failures=("sleeps",))
