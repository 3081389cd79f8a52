"""Steps of one frame or many: which instants they end at, and what lies between."""

import pytest
import torch

from scene4d.models.instants import Steps, drawn_steps, prepared_instants

SINGLE, COARSE, UNEVEN = Steps((1, 2, 3)), Steps((4, 8, 12)), Steps((1, 3, 8))


def test_regular_steps_end_with_the_chunk():
    assert Steps.regular(8, stride=1).ahead == tuple(range(1, 9)) and Steps.regular(8, stride=1).single
    assert Steps.regular(32, stride=4).ahead == (4, 8, 12, 16, 20, 24, 28, 32)
    assert Steps.regular(10, stride=4).ahead == (4, 8, 10) and Steps.regular(10, stride=4).gaps == (4, 4, 2)
    assert Steps.regular(3, stride=4).ahead == (3,)


@pytest.mark.parametrize("steps", [SINGLE, COARSE, UNEVEN])
def test_between_the_ends_lies_a_straight_way_from_nothing(steps):
    """At the ends stands what was given, to the bit; what is linear in time comes back whole."""
    ends = torch.randn(2, steps.num, 5, 6)
    frames = steps.between(ends)
    assert frames.shape == (2, steps.num_frames, 5, 6) and torch.equal(steps.pick(frames), ends)
    time = torch.arange(1.0, steps.num_frames + 1)[None, :, None]
    torch.testing.assert_close(steps.between(steps.pick(time)), time)


@pytest.mark.parametrize("steps", [SINGLE, COARSE, UNEVEN])
def test_means_of_steps_hold_the_sum(steps):
    frames = torch.randn(2, steps.num_frames, 3)
    mean, gaps = steps.mean(frames), torch.tensor(steps.gaps)[:, None]
    torch.testing.assert_close((mean * gaps).sum(1), frames.sum(1))
    torch.testing.assert_close(steps.mean(steps.held(mean)), mean)
    torch.testing.assert_close(mean[:, 0], frames[:, : steps.ahead[0]].mean(1))


def test_what_is_left_counts_from_where_the_first_end():
    done, rest = UNEVEN.split(1)
    assert done.ahead == (1,) and rest.ahead == (2, 7)


def test_time_is_told_in_seconds():
    """So that 4 frames at 40 a second are as long as one at 10 a second."""
    fast, slow = Steps((4, 8), frame_seconds=0.025), Steps((1, 2), frame_seconds=0.1)
    torch.testing.assert_close(fast.time_features, slow.time_features)
    assert not torch.allclose(fast.time_features, Steps((4, 8), frame_seconds=0.05).time_features)


def test_drawn_steps_end_at_prepared_instants_and_are_of_every_kind():
    torch.manual_seed(0)
    instants = prepared_instants(8, strides=(1, 4))
    assert instants == (1, 2, 3, 4, 5, 6, 7, 8, 12, 16, 20, 24, 28, 32)
    drawn = [drawn_steps(8, strides=(1, 4), irregular=0.3) for _ in range(200)]
    assert all(set(steps.ahead) <= set(instants) and steps.num == 8 for steps in drawn)
    kinds = [steps.ahead for steps in drawn]
    regular = {Steps.regular(8 * s, stride=s).ahead for s in (1, 4)}
    assert regular <= set(kinds) and 0.15 < sum(ahead not in regular for ahead in kinds) / 200 < 0.45


def test_one_length_of_step_draws_nothing():
    """A model of single frames trains as it always has."""
    before = torch.get_rng_state()
    assert drawn_steps(8, strides=(1,), irregular=0.5).ahead == tuple(range(1, 9))
    assert torch.equal(before, torch.get_rng_state())
