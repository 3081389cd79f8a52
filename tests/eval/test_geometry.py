"""Geometry figures on values worked out by hand."""

import torch

from scene4d.eval.metrics.image_metrics import depth_absrel


def test_absrel_counts_what_both_measured():
    target = torch.tensor([[[1.0, 2.0, 0.0, 4.0]]])
    depth = torch.tensor([[[1.1, 1.8, 3.0, 0.0]]])
    torch.testing.assert_close(depth_absrel(depth, target), torch.tensor([0.1]))
    mask = torch.tensor([[[False, False, True, False]]])
    assert depth_absrel(depth, target, mask=mask).isnan().all()
