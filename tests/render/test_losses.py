"""Losses and metrics on images whose answer is known."""

from __future__ import annotations

import pytest
import torch
from render_scenes import require_grads, some_cameras, some_gaussians

from scene4d.errors import ShapeError
from scene4d.render.losses import l1, psnr, ssim
from scene4d.render.render import render


def test_psnr_of_a_constant_error():
    image = torch.full((2, 8, 9, 3), 0.5)
    shifted = image + torch.tensor([0.1, 0.01])[:, None, None, None]
    assert torch.allclose(psnr(image, shifted), torch.tensor([20.0, 40.0]), atol=1e-3)
    assert float(psnr(image[0], image[0])) == pytest.approx(120.0)


def test_masks_pick_pixels():
    a, b = torch.zeros(8, 8, 3), torch.zeros(8, 8, 3)
    b[:4] = 0.1
    mask = torch.zeros(8, 8)
    mask[4:] = 1
    assert float(l1(a, b, mask=mask)) == 0.0 and float(l1(a, b, mask=1 - mask)) == pytest.approx(0.1)
    assert float(psnr(a, b, mask=mask)) == pytest.approx(120.0) and float(psnr(a, b, mask=1 - mask)) == pytest.approx(
        20.0
    )
    assert psnr(a, b, mask=0 * mask).isnan()


def test_ssim_is_one_on_equal_images_and_falls():
    image = torch.rand(2, 3, 24, 20, 3)
    assert torch.allclose(ssim(image, image), torch.ones(2, 3), atol=1e-5)
    assert float(ssim(image, torch.rand_like(image)).max()) < 0.5
    with pytest.raises(ShapeError):
        ssim(image[..., :4, :4, :], image[..., :4, :4, :])


def test_losses_fall_to_zero_on_the_picture_itself_and_descend():
    gaussians, cameras = some_gaussians(), some_cameras()
    target = render(gaussians, cameras)
    loss = lambda frames: l1(frames.rgb, target.rgb) + 1 - ssim(frames.rgb, target.rgb).mean()
    assert float(loss(target)) < 1e-4
    moved, cameras, leaves = require_grads(gaussians.replace(means=gaussians.means + 0.01), cameras)
    before = loss(render(moved, cameras))
    before.backward()
    with torch.no_grad():
        step = moved.replace(means=leaves["means"] - 0.002 * leaves["means"].grad.sign())
        assert float(loss(render(step, cameras))) < float(before)
