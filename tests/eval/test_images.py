"""Image figures against their definitions."""

import math

import torch

from scene4d.eval.metrics.image_metrics import channel_gains, image_report, psnr, ssim


def test_psnr_is_its_definition():
    image, target = torch.rand(2, 8, 9, 3), torch.rand(2, 8, 9, 3)
    wanted = [-10 * math.log10(float(((a - b) ** 2).mean())) for a, b in zip(image, target, strict=True)]
    torch.testing.assert_close(psnr(image, target), torch.tensor(wanted))


def test_psnr_counts_masked_pixels_only_and_clamps():
    target = torch.full((4, 4, 3), 1.0)
    image = torch.zeros(4, 4, 3)
    image[:2] = 0.9
    mask = torch.zeros(4, 4, dtype=torch.bool)
    mask[:2] = True
    torch.testing.assert_close(psnr(image, target, mask=mask), torch.tensor(20.0), atol=1e-4, rtol=0)
    assert psnr(image * 50, target, mask=mask) > 100
    assert psnr(image, target, mask=torch.zeros_like(mask)).isnan()


def test_ssim_of_itself_is_one():
    image = torch.rand(16, 16, 3)
    torch.testing.assert_close(ssim(image, image), torch.tensor(1.0))
    assert ssim(image, torch.rand(16, 16, 3)) < 0.5


def test_gains_undo_an_exposure():
    image = torch.rand(10, 10, 3) * 0.4 + 0.1
    gain = torch.tensor([1.5, 0.8, 1.1])
    torch.testing.assert_close(channel_gains(image, image * gain), gain)
    report = image_report(image, image * gain, sensor=torch.ones(10, 10, dtype=torch.bool))
    assert report["psnr_sensor_gain"] > 100 > report["psnr_sensor"]
    torch.testing.assert_close(report["psnr"], report["psnr_sensor"])
