"""What `render` offers besides the plain picture: anti-aliasing, median depth, normals, footprints, absgrads."""

from __future__ import annotations

import pytest
import torch
from render_scenes import FIELDS, require_grads, some_cameras, some_gaussians

from scene4d.geometry.rotation import matrix_from_quat, normalize_quat
from scene4d.native.ops import RasterSettings
from scene4d.render.reference import rasterize_reference
from scene4d.render.render import best_rasterizer, draw, render, render_reference, render_with_footprints
from scene4d.types import Cameras, Gaussians


def small_splats() -> Gaussians:
    """Splats of about half a pixel: what anti-aliasing is for."""
    gaussians = some_gaussians(300)
    return gaussians.replace(scales=gaussians.scales * 0.15)


def wall(depth: float, *, opacity: float, num: int = 24) -> Gaussians:
    """A flat wall across the view axis at z = depth, dense enough to have no gaps."""
    x, y = torch.meshgrid(torch.linspace(-1, 1, num), torch.linspace(-1, 1, num), indexing="xy")
    means = torch.stack([x.flatten(), y.flatten(), torch.full((num * num,), depth)], -1)
    quats = torch.tensor([1.0, 0.0, 0.0, 0.0]).expand(num * num, 4)
    scales = torch.tensor([0.06, 0.06, 0.002]).expand(num * num, 3)
    opacities, sh = torch.full((num * num,), opacity), torch.zeros(num * num, 1, 3)
    return Gaussians(means=means, quats=quats, scales=scales, opacities=opacities, sh=sh)


def straight_camera() -> Cameras:
    K = torch.tensor([[40.0, 0.0, 16.0], [0.0, 40.0, 12.0], [0.0, 0.0, 1.0]])
    return Cameras(viewmats=torch.eye(4), Ks=K, width=32, height=24)


def test_antialiased_image_and_gradients_are_the_reference():
    weights, results = None, []
    for dtype, drawing in ((torch.float32, render), (torch.float64, render_reference)):
        gaussians, cameras, leaves = require_grads(small_splats().to(dtype), some_cameras(40, 37).to(dtype))
        rgb = drawing(gaussians, cameras, antialiased=True).rgb
        weights = torch.randn(rgb.shape, generator=torch.Generator().manual_seed(2))
        (rgb * weights.to(dtype)).sum().backward()
        results.append((rgb.detach(), {name: leaf.grad for name, leaf in leaves.items() if leaf.grad is not None}))
    (ours, v_ours), (exact, v_exact) = results
    assert float((ours.double() - exact).abs().max()) < 2e-5
    for name, theirs in v_exact.items():
        assert float((v_ours[name].double() - theirs).norm()) <= 1e-3 * float(theirs.norm()) + 1e-6, name


def test_antialiasing_keeps_what_a_small_splat_covers():
    """A splat far smaller than a pixel covers opacity * its own area; without it the low-pass alone decides."""
    camera = straight_camera()
    scale = 0.004  # 0.16 pixel at z = 1
    one = wall(1.0, opacity=0.9, num=1).replace(scales=torch.full((1, 3), scale))
    one = one.replace(means=torch.tensor([[0.0125, 0.0125, 1.0]]))  # the centre of a pixel
    covered = float(render(one, camera, antialiased=True, eps2d=0.3).alpha.sum())
    area = 2 * torch.pi * (40.0 * scale) ** 2
    assert covered == pytest.approx(0.9 * area, rel=0.15)
    assert float(render(one, camera, eps2d=0.3).alpha.sum()) > 5 * covered


def test_median_depth_is_that_of_the_surface_that_half_of_the_light_stops_at():
    camera = straight_camera()
    near, far = wall(1.0, opacity=0.35), wall(2.0, opacity=0.95, num=60)
    both = Gaussians(**{name: torch.cat([getattr(near, name), getattr(far, name)]) for name in FIELDS})
    frames = render(both, camera, extras=("depth_median",))
    median, alpha = frames.extras["depth_median"][..., 0], frames.alpha
    assert set(median[alpha > 0.5].unique().tolist()) <= {1.0, 2.0}
    assert torch.equal(median == 0, alpha < 0.5)
    exact = render_reference(both.to(torch.float64), camera.to(torch.float64), extras=("depth_median",))
    assert float((median.double() - exact.extras["depth_median"][..., 0]).abs().mean()) < 1e-3  # cut-offs may flip
    mixed = (frames.depth > 1.05) & (frames.depth < 1.95)
    assert bool(mixed.any()), "the expected depth lies between the walls, the median on one of them"


def test_normals_face_the_camera_and_carry_gradients():
    front, camera = wall(1.5, opacity=0.99), straight_camera()
    behind = camera.replace(viewmats=torch.diag(torch.tensor([-1.0, 1.0, -1.0, 1.0])))
    behind.viewmats[2, 3] = 3.0  # the other side of the wall, looking back
    both = camera.replace(viewmats=torch.stack([camera.viewmats, behind.viewmats]), Ks=camera.Ks.expand(2, 3, 3))
    frames = render(front, both, extras=("normals",))
    centre = frames.extras["normals"][:, 12, 16] / frames.alpha[:, 12, 16, None]
    assert torch.allclose(centre, torch.tensor([[0.0, 0.0, -1.0], [0.0, 0.0, 1.0]]), atol=1e-5)
    tilted = front.replace(quats=normalize_quat(torch.tensor([1.0, 0.2, 0.0, 0.0])).expand(len(front.means), 4))
    expected = -matrix_from_quat(tilted.quats[0])[:, 2]
    leaf = tilted.replace(quats=tilted.quats.clone().requires_grad_())
    drawn = render(leaf, camera, extras=("normals",))
    assert torch.allclose(drawn.extras["normals"][12, 16] / drawn.alpha[12, 16], expected, atol=1e-4)
    drawn.extras["normals"][..., 1].sum().backward()
    assert float(leaf.quats.grad.abs().max()) > 0


def test_footprints_say_where_gaussians_fell():
    gaussians, cameras = some_gaussians(), some_cameras()
    frames, footprints = render_with_footprints(gaussians, cameras)
    assert torch.equal(frames.rgb, render(gaussians, cameras).rgb)
    assert footprints.radii.shape == (*cameras.batch_shape, gaussians.num_gaussians, 2)
    wide, views = gaussians.to(torch.float64), cameras.to(torch.float64)
    _, exact = draw(wide, views, options={}, rasterizer=best_rasterizer, absgrads=footprints.absgrads.double())
    assert torch.allclose(footprints.radii.double(), exact.radii.reshape(footprints.radii.shape), atol=1e-3)
    visible = footprints.visible
    assert 0 < int(visible.sum()) < visible.numel()
    view = cameras[0]
    assert torch.equal(render(gaussians.pick(visible[0]), view).rgb, render(gaussians, view).rgb)


def test_absolute_gradients_are_the_sum_over_pixels_of_their_size():
    gaussians, camera = some_gaussians(60), some_cameras(30, 26, num=1)
    frames, footprints = render_with_footprints(gaussians, camera)
    weights = torch.randn(frames.rgb.shape, generator=torch.Generator().manual_seed(0))
    i, j = torch.meshgrid(torch.arange(camera.height), torch.arange(camera.width), indexing="ij")
    weights[0, (i + j) % 3 > 0] = 0  # a third of the pixels, for the time's sake: the law holds for any set of them
    (frames.rgb * weights).sum().backward()
    exact = absolute_gradients_pixel_by_pixel(gaussians.to(torch.float64), camera.to(torch.float64), weights.double())
    assert torch.allclose(footprints.absgrads.grad[0].double(), exact, rtol=1e-3, atol=1e-4)


def absolute_gradients_pixel_by_pixel(gaussians: Gaussians, camera: Cameras, weights: torch.Tensor) -> torch.Tensor:
    """[n 2]: every pixel differentiated alone, where the sum over pixels is the plain gradient without its sign."""
    total = torch.zeros(gaussians.num_gaussians, 2, dtype=torch.float64)
    tensors = {name: getattr(gaussians, name)[None] for name in FIELDS}
    tensors |= {"extras": gaussians.means[None, :, :0], "ids": gaussians.ids[None]}
    cameras = {"viewmats": camera.viewmats[None], "Ks": camera.Ks[None], "background": None}
    shift = torch.zeros(1, 1, gaussians.num_gaussians, 2, dtype=torch.float64, requires_grad=True)
    settings = RasterSettings(camera.width, camera.height)
    rgb = rasterize_reference(tensors, cameras, settings=settings, absgrads=shift).rgb
    for i, j in (weights[0].abs().sum(-1) > 0).nonzero().tolist():
        (grad,) = torch.autograd.grad((rgb[0, 0, i, j] * weights[0, i, j]).sum(), shift, retain_graph=True)
        total += grad[0, 0]
    return total
