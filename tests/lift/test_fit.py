"""Refinement by rendering: it lowers the error, repeats itself, keeps the rows and takes up exposure."""

import pytest
import torch

from scene4d.errors import NumericsError
from scene4d.lift.refine.fit import FitConfig, fit_gaussians
from scene4d.lift.rgbd.unproject import LiftConfig, lift_frames
from scene4d.render.losses import psnr
from scene4d.render.render import render

QUICK = FitConfig(steps=30, coarse_share=0.3, max_seconds=None)


def _rough(frames):
    return lift_frames(frames, config=LiftConfig(footprint=0.8, opacity=0.7))


def test_fit_lowers_the_error_on_a_view_it_never_saw(table):
    frames, target = table(0.0, 20.0, wavelength=0.3), table(10.0, wavelength=0.3)
    start = _rough(frames)
    fitted = fit_gaussians(start, frames, config=QUICK)
    for view in (frames, target):
        before = psnr(render(start, view.cameras).rgb, view.rgb).mean()
        after = psnr(render(fitted, view.cameras).rgb, view.rgb).mean()
        assert after > before + 1.0
    assert torch.equal(fitted.ids, start.ids) and fitted.extras.keys() == start.extras.keys()
    assert fitted.sh.shape[-2] == 4 and not fitted.means.requires_grad
    assert (fitted.scales > 0).all() and (fitted.opacities >= 0).all() and (fitted.opacities <= 1).all()


def test_fit_repeats_itself(table):
    frames = table(0.0, 20.0, size=32)
    a, b = (fit_gaussians(_rough(frames), frames, config=QUICK) for _ in range(2))
    assert torch.equal(a.means, b.means) and torch.equal(a.sh, b.sh)


def test_progress_is_reported_and_time_is_kept(table):
    frames = table(0.0, size=32)
    calls = []
    fit_gaussians(_rough(frames), frames, config=FitConfig(steps=3), progress=lambda *x: calls.append(x))
    assert calls == [(1, 3), (2, 3), (3, 3)]
    unchanged = fit_gaussians(_rough(frames), frames, config=FitConfig(steps=50, max_seconds=0.0))
    torch.testing.assert_close(unchanged.means, _rough(frames).means)


def test_a_loss_that_is_not_finite_is_an_error(table):
    frames = table(0.0, size=32)
    broken = frames.replace(rgb=torch.full_like(frames.rgb, float("nan")))
    with pytest.raises(NumericsError):
        fit_gaussians(_rough(frames), broken, config=QUICK)
