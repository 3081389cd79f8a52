"""The sampler against distributions that are known."""

from __future__ import annotations

import torch

from scene4d.models.flow import FlowConfig, draw_levels, noised, sample, seeded_noise


def test_perfect_denoiser_of_one_point_lands_on_it_in_any_number_of_steps():
    goal, noise = torch.randn(4, 3), torch.randn(4, 3)
    for steps in (1, 4, 32):
        torch.testing.assert_close(sample(lambda x, level: goal, noise, steps=steps), goal)


def test_posterior_mean_of_a_gaussian_samples_that_gaussian():
    """For data N(2, 0.5^2) the best denoiser is known; sampling with it gives the data's mean and spread."""
    mean, spread = 2.0, 0.5

    def clean(x, levels):
        level = levels[:, None]
        gain = level * spread**2 / (level**2 * spread**2 + (1 - level) ** 2)
        return mean + gain * (x - level * mean)

    drawn = sample(clean, torch.randn(20000, 1), steps=64)
    assert abs(float(drawn.mean()) - mean) < 0.02 and abs(float(drawn.std()) - spread) < 0.03


def test_noise_comes_from_its_own_seed():
    one, two = (seeded_noise(s, (3, 2), like=torch.zeros(1)) for s in ((1, 2), (9, 2, 1)))
    assert torch.equal(one[0], two[2]) and torch.equal(one[1], two[1]) and not torch.equal(one[0], one[1])


def test_levels_cover_noise_and_stay_below_data():
    levels = draw_levels(4000, config=FlowConfig(pure_noise=0.25), like=torch.zeros(1))
    assert abs(float((levels == 0).float().mean()) - 0.25) < 0.03
    assert float(levels.max()) < 1.0 and float(levels.min()) == 0.0


def test_path_ends():
    clean, noise = torch.randn(2, 3), torch.randn(2, 3)
    out = noised(torch.stack([clean, clean]), torch.stack([noise, noise]), levels=torch.tensor([0.0, 1.0]))
    torch.testing.assert_close(out[0], noise)
    torch.testing.assert_close(out[1], clean)
