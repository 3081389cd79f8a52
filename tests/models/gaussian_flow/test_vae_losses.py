"""The losses are zero where they should be, point the right way, and bring a decoded scene towards the pictures."""

import torch

from scene4d.geometry.camera import orbit
from scene4d.geometry.sh import sh_from_rgb
from scene4d.models.gaussian_flow.networks.vae import GaussianVAE, VAEConfig
from scene4d.models.gaussian_flow.networks.vae_loss import cell_chamfer, kl_divergence, vae_loss
from scene4d.models.tokens.latent import Latent
from scene4d.render.losses import PictureLossConfig, picture_loss
from scene4d.render.render import render
from scene4d.types import Gaussians

SMALL = VAEConfig(
    num_anchors=16, gaussians_per_token=12, channels=8, width=32, cell_width=32, cell_size=24, num_heads=2
)


def ball(num=500):
    g = torch.Generator().manual_seed(0)
    normal = torch.nn.functional.normalize(torch.randn(num, 3, generator=g), dim=-1)
    return Gaussians(
        means=0.3 * normal,
        quats=torch.tensor([1.0, 0, 0, 0]).expand(num, 4),
        scales=torch.full((num, 3), 0.02),
        opacities=torch.full((num,), 0.95),
        sh=sh_from_rgb(0.5 + 0.4 * normal),
    )


def views(gaussians, num=3):
    return render(gaussians, orbit(torch.zeros(3), radius=1.0, elevation=0.5, num_views=num, width=24, height=24))


def test_a_perfect_picture_costs_nothing_but_coverage():
    frames = views(ball())
    loss, metrics = picture_loss(frames, frames, config=PictureLossConfig(alpha=0.0, empty=0.0))
    assert float(loss) == 0 and float(metrics["psnr"]) > 100


def test_chamfer_is_zero_on_the_cell_itself_and_pulls_towards_it():
    vae = GaussianVAE(SMALL)
    g = ball(3000)  # enough to fill every cell
    cells = vae.cells_of(g, vae.anchors_of(g))
    rows = Gaussians(
        means=(cells.anchors[:, None] + cells.offset).flatten(0, 1),
        quats=torch.tensor([1.0, 0, 0, 0]).expand(16 * 24, 4),
        scales=torch.full((16 * 24, 3), 0.02),
        opacities=torch.ones(16 * 24),
        sh=sh_from_rgb(cells.rgb.flatten(0, 1)),
    )
    assert cells.used.all() and float(cell_chamfer(rows, cells, color_m=0.2)) < 1e-5
    away = (rows.means + torch.tensor([0.02, 0.0, 0.0])).requires_grad_()
    cell_chamfer(rows.replace(means=away), cells, color_m=0.2).backward()
    assert torch.isfinite(away.grad).all() and away.grad[:, 0].mean() > 0


def test_empty_cells_give_no_loss_and_finite_gradients():
    vae = GaussianVAE(SMALL)
    g = ball(6)
    cells = vae.cells_of(g, vae.anchors_of(g))
    latent, _ = vae.encode_cells(cells)
    loss = cell_chamfer(vae.decode(latent), cells, color_m=0.2)
    loss.backward()
    assert torch.isfinite(loss) and all(torch.isfinite(p.grad).all() for p in vae.parameters() if p.grad is not None)


def test_kl_equals_torch():
    torch.manual_seed(0)
    mean, log_var = torch.randn(2, 5, 8), torch.randn(2, 5, 8)
    latent = Latent(
        tokens=mean,
        anchors=torch.zeros(2, 5, 3),
        rotations=torch.zeros(2, 5, 4),
        present=torch.tensor([True, True, True, False, True]).expand(2, 5),
        ids=torch.zeros(2, 5, dtype=torch.int64),
    )
    normal = torch.distributions.Normal
    each = torch.distributions.kl_divergence(normal(mean, (0.5 * log_var).exp()), normal(0.0, 1.0)).sum(-1)
    assert torch.allclose(kl_divergence(latent, log_var), each[:, [0, 1, 2, 4]].mean())


def test_a_few_steps_bring_the_decoded_scene_towards_the_pictures():
    torch.set_num_threads(1)  # small networks are fastest so
    vae, g = GaussianVAE(SMALL), ball()
    cells = vae.cells_of(g, vae.anchors_of(g)).map(lambda x: x[None])
    targets = views(g).map(lambda x: x[None])
    optimizer = torch.optim.AdamW(vae.parameters(), lr=4e-3)
    quality, losses = [], []
    for _ in range(30):
        optimizer.zero_grad()
        loss, metrics = vae_loss(vae, cells, targets=targets)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(vae.parameters(), 1.0)
        optimizer.step()
        quality.append(float(metrics["psnr"]))
        losses.append(float(loss.detach()))
    assert max(quality[-5:]) > quality[0] + 1 and losses[-1] < 0.9 * losses[0], (quality[::5], losses[::5])
