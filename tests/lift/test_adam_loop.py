"""The shared loop: it steps, stops in time, reports; rates fall; rows that are replaced keep their moments."""

import math

import pytest
import torch

from scene4d.errors import DataFormatError, DepthError, NumericsError
from scene4d.geometry.frame_images import alpha_of, depth_of
from scene4d.lift.refine import adam_loop
from scene4d.lift.refine.adam_loop import Adam, ProgressReporter, descend, finite
from scene4d.lift.refine.sparse_adam import SparseAdam


def _leaves():
    return {"a": torch.tensor([4.0, -3.0], requires_grad=True), "b": torch.tensor([1.0, 2.0], requires_grad=True)}


def test_it_descends_reports_and_leaves_what_has_no_rate():
    leaves, order = _leaves(), []
    adam = Adam(leaves, rates={"a": 0.3, "b": 0.0}, decay={"a": 0.1})
    reporter = ProgressReporter(lambda done, total: order.append((done, total)))
    descend(
        lambda step: leaves["a"].square().sum() + leaves["b"].sum(),
        optimizer=adam,
        steps=60,
        after_step=lambda step: order.append(step),
        progress=reporter,
    )
    assert float(leaves["a"].detach().abs().max()) < 0.3 and leaves["b"].tolist() == [1.0, 2.0]
    assert order[:3] == [0, (1, 60), 1] and order[-1] == (60, 60) and reporter.done == 60


def test_rates_fall_by_their_factor_over_the_run():
    adam = Adam(_leaves(), rates={"a": 0.2, "b": 0.5}, decay={"a": 0.01})
    assert adam.rate("a", done=0.5) == pytest.approx(0.02) and adam.rate("b", done=0.5) == 0.5


def test_it_stops_in_time(monkeypatch):
    clock = iter(range(100))
    monkeypatch.setattr(adam_loop.time, "monotonic", lambda: next(clock))
    leaves, reporter = _leaves(), ProgressReporter()
    adam = Adam(leaves, rates={"a": 0.3, "b": 0.0}, decay={})
    descend(lambda step: leaves["a"].sum(), optimizer=adam, steps=50, max_seconds=4.0, progress=reporter)
    assert reporter.done == 3


def test_a_loss_that_is_no_number_names_the_frame():
    assert float(finite(torch.tensor(2.0), field="fit", frame=1)) == 2.0
    with pytest.raises(NumericsError, match="frame 7"):
        finite(torch.tensor(math.nan), field="fit", frame=7)


def test_replaced_leaves_keep_their_moments_but_where_they_were_touched():
    adam = Adam({"a": torch.ones(3, requires_grad=True)}, rates={"a": 0.1}, decay={})
    adam.step((adam.leaves["a"] * torch.tensor([1.0, 2.0, 3.0])).sum(), done=0.0)
    before = adam.optimizer.state[adam.leaves["a"]]["exp_avg"].clone()
    adam.replace({"a": torch.full((5,), 9.0)}, touched=torch.tensor([1, 3, 4]))
    leaf = adam.leaves["a"]
    moments = adam.optimizer.state[leaf]["exp_avg"]
    assert leaf.requires_grad and leaf.shape == (5,) and adam.optimizer.param_groups[0]["params"] == [leaf]
    assert moments[[0, 2]].tolist() == before[[0, 2]].tolist() and moments[[1, 3, 4]].tolist() == [0.0, 0.0, 0.0]


def test_all_rows_at_once_go_as_each_by_itself_within_limits_and_masks():
    start = {"x": torch.tensor([[1.0], [2.0], [3.0]], dtype=torch.float64)}
    mask, rows = torch.tensor([True, False, True]), torch.arange(3)
    adams = [
        SparseAdam({"x": start["x"].clone()}, rates={"x": 0.5}, beta2=0.99, limits={"x": 3.2}, mask=mask)
        for _ in range(2)
    ]
    for step in range(4):
        for adam, chosen in zip(adams, (None, rows), strict=True):
            adam.step(-(adam.leaves(chosen)["x"] ** 2).sum(), done=step / 4)
    torch.testing.assert_close(adams[0].values["x"], adams[1].values["x"], rtol=0, atol=1e-6)
    assert adams[0].values["x"][1] == 2.0 and adams[0].values["x"][2] == 3.2 and adams[0].values["x"][0] > 1.5


def test_images_that_must_be_there_are_named(table):
    frames = table(0.0, size=16)
    assert depth_of(frames) is frames.depth and alpha_of(frames) is frames.alpha
    with pytest.raises(DepthError, match="has no depth"):
        depth_of(frames.replace(depth=None))
    with pytest.raises(DataFormatError, match="has no alpha"):
        alpha_of(frames.replace(alpha=None))
