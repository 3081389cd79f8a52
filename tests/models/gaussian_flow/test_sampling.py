"""What rests sets out only when that is all but certain; what has set out goes on as long as that is likelier."""

import torch

from scene4d.models.tokens.motion_estimate import moving_anchors

THRESHOLDS = (0.97, 0.5)


def logits(*chances):
    """Gate [1 h 1] of one anchor with these probabilities of moving."""
    return torch.tensor(chances).logit()[None, :, None]


def moves(gate, *, past=0.0):
    """Whether the one anchor moves, [h]."""
    speed = torch.zeros(1, 1, 6)
    speed[..., 3] = past
    return moving_anchors(gate, past=speed, thresholds=THRESHOLDS)[0, :, 0].tolist()


def test_rest_is_left_for_sure_motion_alone():
    assert moves(logits(0.9, 0.9, 0.96)) == [False, False, False]
    assert moves(logits(0.9, 0.98, 0.6)) == [False, True, True], "once it has set out, likely is enough"
    assert moves(logits(0.98, 0.4, 0.6)) == [True, False, True]


def test_what_moved_goes_on_when_likely():
    assert moves(logits(0.6, 0.4, 0.6), past=1e-4) == [True, False, True]


def test_a_chunk_and_its_steps_agree():
    """Step by step, each with the past that the one before made, sets out where the whole chunk does."""
    gate = logits(0.9, 0.98, 0.6, 0.4, 0.7)
    past, found = 0.0, []
    for step in range(gate.shape[1]):
        found += moves(gate[:, step : step + 1], past=past)
        past = 0.01 if any(found) else 0.0
    assert found == moves(gate)
