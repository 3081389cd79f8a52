"""The autoencoder sees differences of place only, decodes from the latent alone, and takes sets of any size."""

import pytest
import torch

from scene4d.geometry.sh import sh_from_rgb
from scene4d.models.gaussian_flow.networks.vae import GaussianVAE, VAEConfig, rows_of_cells
from scene4d.types import Gaussians

SMALL = VAEConfig(num_anchors=12, gaussians_per_token=6, channels=8, width=32, cell_width=16, cell_size=10, num_heads=2)


def scene(num=300, *, seed=0, dtype=torch.float32):
    g = torch.Generator().manual_seed(seed)
    rand = lambda *shape: torch.rand(*shape, generator=g, dtype=torch.float64).to(dtype)
    return Gaussians(
        means=rand(num, 3),
        quats=torch.nn.functional.normalize(rand(num, 4) - 0.5, dim=-1),
        scales=0.01 + 0.02 * rand(num, 3),
        opacities=0.5 + 0.5 * rand(num),
        sh=sh_from_rgb(rand(num, 3)),
    )


def vae(*, dtype=torch.float32, seed=0):
    torch.manual_seed(seed)
    return GaussianVAE(SMALL).to(dtype).eval()


@torch.no_grad()
def test_moving_the_scene_moves_anchors_and_leaves_tokens():
    model, here = vae(dtype=torch.float64), scene(dtype=torch.float64)
    shift = torch.tensor([3.25, -1.5, 0.75], dtype=torch.float64)
    there = here.replace(means=here.means + shift)
    (a, var_a), (b, var_b) = model.encode(here), model.encode(there)
    assert torch.equal(model.anchors_of(here), model.anchors_of(there))
    assert torch.allclose(a.tokens, b.tokens, atol=1e-9) and torch.allclose(var_a, var_b, atol=1e-9)
    assert torch.allclose(a.anchors + shift, b.anchors, atol=1e-12)
    out_a, out_b = model.decode(a), model.decode(b)
    assert torch.allclose(out_a.means + shift, out_b.means, atol=1e-9)
    assert torch.allclose(out_a.sh, out_b.sh, atol=1e-9) and torch.allclose(out_a.scales, out_b.scales, atol=1e-9)


@torch.no_grad()
def test_order_of_rows_and_empty_slots_do_not_matter():
    model, g = vae(dtype=torch.float64), scene(dtype=torch.float64)
    latent, _ = model.encode(g)
    order = torch.randperm(300, generator=torch.Generator().manual_seed(1))
    mixed, _ = model.encode(g.pick(order))
    assert torch.equal(latent.ids, mixed.ids) and torch.allclose(latent.tokens, mixed.tokens, atol=1e-9)
    padded = g.padded(350)
    padded = padded.replace(means=torch.cat([g.means, torch.full((50, 3), 99.0, dtype=torch.float64)]))
    assert torch.allclose(model.encode(padded)[0].tokens, latent.tokens, atol=1e-9)


@torch.no_grad()
def test_decode_needs_the_latent_and_nothing_else():
    model = vae()
    latent, _ = model.encode(scene())
    first = model.decode(latent)
    model.encode(scene(seed=5))  # nothing of what was encoded since may leak in
    again = vae().decode(latent)
    for name in ("means", "quats", "scales", "opacities", "sh", "ids"):
        assert torch.equal(getattr(first, name), getattr(again, name))
    other = model.decode(latent.replace(tokens=latent.tokens.flip(0)))
    assert (other.sh - first.sh).abs().max() > 1e-4


@torch.no_grad()
def test_batches_equal_single_sets():
    model = vae()
    sets = [scene(300), scene(180, seed=3)]
    latent, log_var = model.encode(Gaussians.stack(sets))
    decoded = model.decode(latent)
    for i, g in enumerate(sets):
        one, one_var = model.encode(g)
        assert torch.allclose(latent.tokens[i], one.tokens, atol=1e-5) and torch.allclose(
            log_var[i], one_var, atol=1e-5
        )
        assert torch.allclose(decoded.means[i], model.decode(one).means, atol=1e-5)


@torch.no_grad()
def test_fewer_gaussians_than_anchors():
    model = vae()
    latent, _ = model.encode(scene(5))
    assert latent.present.sum() == 5 and (latent.ids[~latent.present] == -1).all()
    decoded = model.decode(latent)
    absent = decoded.ids < 0
    assert absent.sum() == (12 - 5) * 6 and (decoded.opacities[absent] == 0).all()
    assert torch.isfinite(decoded.means).all()
    kept = decoded.ids[~absent]
    assert len(kept.unique()) == len(kept)
    empty = scene(3).replace(ids=torch.full((3,), -1))
    latent, log_var = model.encode(empty)
    assert not latent.present.any() and torch.isfinite(latent.tokens).all() and torch.isfinite(log_var).all()


def test_cells_hold_the_nearest_rows():
    points = torch.rand(1, 200, 3, generator=torch.Generator().manual_seed(2))
    valid = torch.ones(1, 200, dtype=torch.bool)
    valid[0, 50:60] = False
    anchors = torch.tensor([[3, 80, 120]])
    index, used = rows_of_cells(points, anchors, valid=valid, size=30)
    owner = torch.cdist(points[0], points[0, anchors[0]]).argmin(-1)
    for cell in range(3):
        rows = index[0, cell][used[0, cell]]
        own = ((owner == cell) & valid[0]).nonzero()[:, 0]
        assert len(rows) == min(30, len(own)) == len(rows.unique()) and set(rows.tolist()) <= set(own.tolist())
        assert int(anchors[0, cell]) in rows.tolist()


def test_latents_are_neither_clamped_nor_quantised():
    model = vae()
    tokens = torch.randn(500, 8) * torch.logspace(-1, 3, 8) + 40
    model.set_statistics(tokens)
    normal = model.normalize(tokens)
    assert torch.allclose(normal.mean(0), torch.zeros(8), atol=1e-3) and torch.allclose(
        normal.std(0), torch.ones(8), atol=1e-3
    )
    assert torch.allclose(model.denormalize(normal * 50), (tokens - tokens.mean(0)) * 50 + tokens.mean(0), rtol=1e-4)
    assert {"latent_mean", "latent_std"} <= model.state_dict().keys()


@pytest.mark.parametrize("width", [30, 36])
def test_impossible_widths_are_named(width):
    from scene4d.errors import ConfigError

    with pytest.raises(ConfigError):
        VAEConfig(width=width, num_heads=4)
