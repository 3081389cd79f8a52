"""The task's text in the model: who does what to what counts where phrases are apart, and tasks are dropped."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from test_dynamics_training import batch_of

from scene4d.models.gaussian_flow.loss import LossConfig, loss
from scene4d.models.gaussian_flow.model import GaussianWorldModel
from scene4d.text.task_vectors import task_channels, task_vector
from scene4d.types import Task

SWAPPED = Task("put the red block on the blue plate"), Task("put the blue block on the red plate")


def stirred(small, *, text) -> GaussianWorldModel:
    torch.manual_seed(0)
    config = dataclasses.replace(small.CONFIG, text=text)
    model = GaussianWorldModel(small.PlainCodec(), config, channels=small.CHANNELS)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
        model.denoiser.out.bias[12] += 6.0
    return model.eval()


@pytest.mark.parametrize(("text", "same"), [("words", True), ("phrases", False)])
def test_swapped_roles_are_two_futures_where_phrases_are_apart(small, text, same):
    model = stirred(small, text=text)
    states = [model.observe(small.observation(task=task)) for task in SWAPPED]
    assert states[0].task_vector.shape == (task_channels(text),)
    assert torch.equal(states[0].task_vector, task_vector(SWAPPED[0], text=text))
    first, second = (model.predict(state, actions=small.some_actions()).world_from_now for state in states)
    assert torch.equal(first, second) is same
    own = [model.propose(state, seeds=(1,)).actions for state in states]
    assert torch.equal(*own) is same


@pytest.mark.parametrize("text", ["words", "phrases"])
def test_a_dropped_task_is_no_task_for_the_denoiser(small, text):
    model = stirred(small, text=text)
    batch, num = batch_of(small, model, [0.01, -0.01]), task_channels(text)
    none, other = batch.replace(task=torch.zeros(2, num)), batch.replace(task=torch.rand(2, num))

    def value(each, rate: float) -> float:
        torch.manual_seed(3)
        given = model.proprio.condition(batch.actions, track=batch.track, task=batch.task)
        model.proprio.condition = lambda actions, *, track, task: given.replace(task=task)
        found, _ = loss(model, each, config=LossConfig(task_dropout=rate))
        del model.proprio.condition
        return float(found.detach())

    assert value(none, 1.0) == value(other, 1.0) == value(batch, 1.0)
    assert value(none, 0.0) != value(other, 0.0)
