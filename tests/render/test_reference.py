"""The reference itself: against an independent dense formula, and gradcheck in double."""

from __future__ import annotations

import torch
from render_scenes import FIELDS, some_cameras, some_gaussians

from scene4d.render.render import render_reference
from scene4d.types import Cameras, Gaussians


def dense_alpha(gaussians: Gaussians, camera: Cameras) -> torch.Tensor:
    """Coverage [h w] of degree-0 Gaussians by the textbook formula, pixel by pixel, no tiles."""
    R, t, K = camera.viewmats[:3, :3], camera.viewmats[:3, 3], camera.Ks
    order = torch.argsort(gaussians.means @ R[2] + t[2])
    through = torch.ones(camera.height, camera.width, dtype=torch.float64)
    ys, xs = torch.meshgrid(torch.arange(camera.height) + 0.5, torch.arange(camera.width) + 0.5, indexing="ij")
    for i in order:
        p = R @ gaussians.means[i] + t
        q = gaussians.quats[i] / gaussians.quats[i].norm()
        w, x, y, z = q
        skew = torch.stack([torch.stack([w * 0, -z, y]), torch.stack([z, w * 0, -x]), torch.stack([-y, x, w * 0])])
        turn = torch.eye(3, dtype=torch.float64) + 2 * w * skew + 2 * skew @ skew
        covar = turn @ torch.diag(gaussians.scales[i] ** 2) @ turn.T
        J = K[:2] @ torch.stack([torch.eye(3, dtype=torch.float64)[j] / p[2] for j in range(3)])
        J = J - torch.outer((K @ p)[:2] / p[2] ** 2, torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64))
        image = J @ R @ covar @ R.T @ J.T + 0.3 * torch.eye(2, dtype=torch.float64)
        pixel = (K @ p)[:2] / p[2]
        d = torch.stack([xs - pixel[0], ys - pixel[1]], -1).double()
        power = -0.5 * torch.einsum("hwi,ij,hwj->hw", d, torch.linalg.inv(image), d)
        alpha = (gaussians.opacities[i] * power.exp()).clamp(max=0.999)
        alpha = torch.where(alpha < 1 / 255, 0.0, alpha)
        through = torch.where(through * (1 - alpha) > 1e-4, through * (1 - alpha), through)
    return 1 - through


def test_alpha_is_the_textbook_formula():
    gaussians = some_gaussians(25, degree=0).to(torch.float64)
    cameras = some_cameras(40, 37, num=1).to(torch.float64)
    assert torch.allclose(render_reference(gaussians, cameras).alpha[0], dense_alpha(gaussians, cameras[0]), atol=1e-12)


def test_gradcheck():
    # Few wide, faint splats: no pixel is near a cut-off, so finite differences see a smooth function.
    gaussians = some_gaussians(3, degree=1).to(torch.float64)
    gaussians = gaussians.replace(scales=gaussians.scales * 12, opacities=gaussians.opacities * 0.3 + 0.3)
    cameras = some_cameras(4, 3, num=1).to(torch.float64)
    gaussians = gaussians.replace(sh=gaussians.sh * 0.3)
    leaves = [getattr(gaussians, name).clone().requires_grad_() for name in FIELDS]
    direction = gaussians.replace(means=gaussians.means.clone())  # the view direction is a constant to the gradient

    def draw(means, quats, scales, opacities, sh, features):
        flat = direction.replace(
            means=means, quats=quats, scales=scales, opacities=opacities, sh=sh[:, :1], extras={"features": features}
        )
        frames = render_reference(flat, cameras, extras=("features",))
        return frames.rgb, frames.depth, frames.alpha, frames.extras["features"]

    features = gaussians.extras["features"].clone().requires_grad_()
    assert torch.autograd.gradcheck(draw, (*leaves, features), eps=1e-6, atol=1e-6)


def test_gradcheck_of_cameras_and_background():
    gaussians = some_gaussians(3, degree=0).to(torch.float64)
    gaussians = gaussians.replace(scales=gaussians.scales * 12, opacities=gaussians.opacities * 0.3 + 0.3)
    cameras = some_cameras(4, 3, num=1).to(torch.float64)

    def draw(viewmats, background):
        frames = render_reference(gaussians, cameras.replace(viewmats=viewmats), background=background)
        return frames.rgb, frames.depth

    viewmats = cameras.viewmats.clone().requires_grad_()
    background = torch.tensor([0.1, 0.2, 0.3], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(draw, (viewmats, background), eps=1e-6, atol=1e-6)
