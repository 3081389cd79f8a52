"""The native picture and its gradients are those of the plain-torch reference; laws; degenerate scenes."""

from __future__ import annotations

import functools

import pytest
import torch
from render_scenes import FIELDS, require_grads, some_cameras, some_gaussians

from scene4d.errors import DataFormatError, ShapeError
from scene4d.geometry.camera import invert_rigid
from scene4d.geometry.rotation import apply_pose, matrix_from_pose, multiply_quat, normalize_quat
from scene4d.geometry.sh import rotate_sh
from scene4d.native.ops import INSTRUCTION_SETS, force_instruction_set, native_module
from scene4d.render.render import render, render_reference
from scene4d.types import Cameras, Frames, Gaussians

IMAGES = ("rgb", "depth", "alpha")


@pytest.fixture(params=INSTRUCTION_SETS)
def instruction_set(request):
    """Each kernel set that this machine has."""
    if INSTRUCTION_SETS.index(request.param) > native_module().best_instruction_set():
        pytest.skip(f"this machine has no {request.param}")
    force_instruction_set(request.param)
    yield request.param
    force_instruction_set(None)


def images_of(frames: Frames) -> dict[str, torch.Tensor]:
    return {**{name: getattr(frames, name) for name in IMAGES}, **frames.extras}


def largest_difference(a: Frames, b: Frames) -> float:
    ours, theirs = images_of(a), images_of(b)
    assert ours.keys() == theirs.keys()
    return max(float((ours[k].double() - theirs[k].double()).abs().max()) for k in ours)


def gradients(draw, gaussians: Gaussians, cameras: Cameras, *, parts: tuple[str, ...]) -> dict[str, torch.Tensor]:
    """Gradients of a fixed random combination of the images `parts`."""
    gaussians, cameras, leaves = require_grads(gaussians, cameras)
    background = torch.tensor([0.2, 0.5, 0.9], dtype=gaussians.means.dtype, requires_grad=True)
    images = images_of(draw(gaussians, cameras, extras=("features",), background=background))
    random = torch.Generator().manual_seed(1)
    loss = 0.0
    for name in ("rgb", "depth", "alpha", "features"):
        weights = torch.randn(images[name].shape, generator=random).to(background)
        loss = loss + (images[name] * weights).sum() * (name in parts)
    loss.backward()
    return {name: x.grad for name, x in {**leaves, "background": background}.items() if x.grad is not None}


@functools.cache
def exact_image(degree: int) -> Frames:
    gaussians, cameras = some_gaussians(degree=degree).to(torch.float64), some_cameras().to(torch.float64)
    background = torch.tensor([0.2, 0.5, 0.9]).double()
    return render_reference(gaussians, cameras, background=background, extras=("features",))


@functools.cache
def exact_gradients(parts: tuple[str, ...]) -> dict[str, torch.Tensor]:
    gaussians, cameras = some_gaussians(200).to(torch.float64), some_cameras(40, 37).to(torch.float64)
    return gradients(render_reference, gaussians, cameras, parts=parts)


@pytest.mark.parametrize("degree", [0, 1, 2, 3])
def test_image_is_the_reference(degree, instruction_set):
    gaussians, cameras = some_gaussians(degree=degree), some_cameras()
    ours = render(gaussians, cameras, background=torch.tensor([0.2, 0.5, 0.9]), extras=("features",))
    exact = exact_image(degree)
    assert ours.rgb.dtype == torch.float32
    assert largest_difference(ours, exact) < 2e-5


@pytest.mark.parametrize(
    "parts", [("rgb",), ("depth",), ("alpha",), ("features",), ("rgb", "depth", "alpha", "features")]
)
def test_gradients_are_the_reference(parts, instruction_set):
    ours = gradients(render, some_gaussians(200), some_cameras(40, 37), parts=parts)
    for name, theirs in exact_gradients(parts).items():
        mine = ours[name].double() if name in ours else torch.zeros_like(theirs)
        size = float(theirs.norm())
        assert float((mine - theirs).norm()) <= 1e-3 * size + 1e-6, name
        if size > 0:
            assert float((mine * theirs).sum()) >= 0.9999 * size * float(mine.norm()), name


def test_batches_are_single_renders():
    sets = [some_gaussians(200, seed=seed) for seed in range(6)]
    batch = Gaussians.stack([Gaussians.stack(sets[:3]), Gaussians.stack(sets[3:])])
    cameras = some_cameras(40, 33, num=2)
    both = cameras.map(lambda x: x.expand(2, 3, *x.shape))
    together = render(batch, both, extras=("features",))
    assert together.batch_shape == (2, 3, 2)
    for i in range(6):
        alone = render(sets[i], cameras, extras=("features",))
        assert largest_difference(together[i // 3, i % 3], alone) == 0.0
    one = render(sets[0], cameras[1])
    assert one.batch_shape == () and torch.equal(one.rgb, together.rgb[0, 0, 1])


def test_gradient_sums_over_views():
    gaussians, cameras = some_gaussians(), some_cameras(num=3)
    together = gradients(render, gaussians, cameras, parts=("alpha",))
    random, apart = torch.Generator().manual_seed(1), torch.zeros_like(gaussians.means)
    shape = (3, cameras.height, cameras.width)
    torch.randn(*shape, 3, generator=random), torch.randn(shape, generator=random)  # those of rgb and depth
    weights = torch.randn(shape, generator=random)
    for view in range(3):
        leaf, single, leaves = require_grads(gaussians, cameras[view])
        (render(leaf, single).alpha * weights[view]).sum().backward()
        apart += leaves["means"].grad
    assert torch.allclose(together["means"], apart, rtol=1e-4, atol=1e-4 * float(apart.abs().max()))


def test_rigid_motion_of_scene_and_camera_changes_nothing():
    gaussians, cameras = some_gaussians().to(torch.float64), some_cameras().to(torch.float64)
    pose = torch.cat([normalize_quat(torch.randn(4)), torch.randn(3)]).double()
    moved = gaussians.replace(
        means=apply_pose(pose, gaussians.means),
        quats=multiply_quat(pose[:4], gaussians.quats),
        sh=rotate_sh(gaussians.sh, pose[:4]),
    )
    turned = cameras.replace(viewmats=cameras.viewmats @ invert_rigid(matrix_from_pose(pose)))
    a = render(gaussians.to(torch.float32), cameras.to(torch.float32))
    b = render(moved.to(torch.float32), turned.to(torch.float32))
    # A rounding may carry a pixel over the 1/255 cut-off, so single pixels may differ by that much.
    assert float((a.rgb - b.rgb).abs().mean()) < 1e-5
    assert float((a.rgb - b.rgb).abs().max()) < 1e-2


def test_order_of_rows_changes_nothing():
    gaussians, cameras = some_gaussians(), some_cameras()
    shuffled = gaussians.pick(torch.randperm(gaussians.num_gaussians))
    assert largest_difference(render(gaussians, cameras), render(shuffled, cameras)) == 0.0


def test_empty_slots_are_not_drawn():
    gaussians, cameras = some_gaussians(100), some_cameras()
    opaque = gaussians.padded(150).replace(opacities=torch.ones(150))
    assert torch.equal(render(gaussians.replace(opacities=torch.ones(100)), cameras).rgb, render(opaque, cameras).rgb)


def spoiled(kind: str) -> Gaussians:
    """A good cloud with something wrong in its first rows (or in all)."""
    g = some_gaussians(60)
    rows = {name: getattr(g, name).clone() for name in FIELDS}
    match kind:
        case "none":
            return g.pick(torch.zeros(60, dtype=torch.bool))
        case "behind":
            rows["means"][:] = torch.tensor([30.0, 10.0, 0.0]) + rows["means"]
        case "near plane":
            rows["means"][:10] = torch.tensor([1.5, 0.0, 0.4])
        case "nan" | "infinite":
            for i, name in enumerate(FIELDS):
                rows[name][i].fill_(float("nan") if kind == "nan" else float("inf"))
        case "zero scale":
            rows["scales"][:30] = 0.0
        case "zero quaternion":
            rows["quats"][:30] = 0.0
        case "covers all":
            rows["scales"][:5] = 50.0
        case "needle":
            rows["scales"][:5] = torch.tensor([30.0, 1e-4, 1e-4])
        case "opaque":
            rows["opacities"][:] = 1.0
    return g.replace(**rows)


KINDS = [
    "none", "behind", "near plane", "nan", "infinite",
    "zero scale", "zero quaternion", "covers all", "needle", "opaque",
]  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_degenerate_scenes_stay_finite(kind, instruction_set):
    gaussians, cameras = spoiled(kind), some_cameras(num=1)
    ours = render(gaussians, cameras)
    assert all(x.isfinite().all() for x in images_of(ours).values())
    assert float(ours.alpha.min()) >= 0.0 and float(ours.alpha.max()) <= 1.0
    grads = gradients(render, gaussians, cameras, parts=("rgb", "depth", "alpha", "features"))
    assert all(g.isfinite().all() for g in grads.values())
    if kind in ("nan", "infinite"):
        assert all(float(grads[name][: len(FIELDS)].abs().max()) == 0.0 for name in FIELDS)
    if kind != "needle":  # whose quadratic form loses its digits in float32
        exact = render_reference(gaussians.to(torch.float64), cameras.to(torch.float64))
        assert largest_difference(ours, exact) < 1e-4


def test_image_sizes_that_are_no_multiple_of_anything():
    gaussians = some_gaussians()
    for width, height in [(1, 1), (3, 17), (16, 16), (65, 2)]:
        cameras = some_cameras(width, height, num=1)
        exact = render_reference(gaussians.to(torch.float64), cameras.to(torch.float64))
        assert largest_difference(render(gaussians, cameras), exact) < 2e-5


def test_many_views_of_no_batch_and_no_views():
    gaussians = some_gaussians(20)
    assert render(gaussians, some_cameras(num=2).map(lambda x: x[:0])).rgb.shape == (0, 45, 70, 3)
    _, _, leaves = found = require_grads(gaussians, some_cameras())
    render(found[0], found[1].map(lambda x: x[:0])).rgb.sum().backward()
    assert float(leaves["means"].grad.abs().max()) == 0.0


def test_double_runs_the_reference():
    gaussians, cameras = some_gaussians().to(torch.float64), some_cameras().to(torch.float64)
    assert torch.equal(render(gaussians, cameras).rgb, render_reference(gaussians, cameras).rgb)


def test_half_is_drawn_in_float32():
    gaussians, cameras = some_gaussians().to(torch.float16), some_cameras()
    assert render(gaussians, cameras).rgb.dtype == torch.float32


def test_wrong_axes_and_names_say_so():
    with pytest.raises(ShapeError, match="lead those of the cameras"):
        render(some_gaussians(batch=(3,)), some_cameras(num=2))
    with pytest.raises(DataFormatError, match="no such extra"):
        render(some_gaussians(), some_cameras(), extras=("missing",))


def test_the_function_is_at_the_top():
    import scene4d

    assert scene4d.render is render
