"""Inputs on which two rasterizers are compared, and the comparison."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from test_rasterize import some_inputs

from scene4d.native import ops
from scene4d.native.ops import RasterSettings

SETTINGS = RasterSettings(width=37, height=21, median=True, radii=True)
TOLERANCE = 1e-5
ALL = [True] * len(ops._GRADS)


def arguments(gaussians, cameras, settings: RasterSettings, *, token: int = 0) -> tuple:
    (b, n), v = gaussians["opacities"].shape, cameras["viewmats"].shape[1]
    tensors = {**gaussians, **cameras, "absgrads": torch.zeros(b, v, n, 2)}
    s = settings
    options = (s.width, s.height, s.eps2d, s.near, s.far, s.antialiased, s.median, s.radii, token)
    return (*(tensors[name] for name in ops._TENSORS), *options)


def gradients_of_images(images) -> list[torch.Tensor]:
    random = torch.Generator().manual_seed(3)
    return [torch.randn(x.shape, generator=random).to(x.device) for x in images[:4]]


def both_ways(forward: Callable, backward: Callable, args, *, v_images=None, wanted=ALL) -> dict[str, torch.Tensor]:
    """Images and gradients of a pair of functions with the signatures of the ops, by name."""
    images = forward(*args)
    v_images = gradients_of_images(images) if v_images is None else v_images
    return named(images, backward(*args, *images[:4], *v_images, wanted))


def named(images, grads) -> dict[str, torch.Tensor]:
    named_grads = {f"v_{name}": x for name, x in zip(ops._GRADS, grads, strict=True)}
    return {**dict(zip(ops.Raster._fields, images, strict=True)), **named_grads}


def assert_close(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    # Depth was divided by alpha = 1 - T, of which float32 keeps few digits where it is small.
    found, expected = ({**x, "depth": x["depth"] * x["alpha"]} for x in (found, expected))
    for name, x in expected.items():
        scale = x.abs().max().clamp_min(1.0) if x.numel() else 1.0
        assert found[name].shape == x.shape, name
        assert torch.allclose(found[name] / scale, x / scale, rtol=0, atol=TOLERANCE), name


def crowd(num: int = 160, **options):
    """Many splats in few tiles, one over the whole image, one smaller than a pixel.

    So lists are longer than a batch, tiles become opaque, and some splats have more tiles than a lane handles alone.
    """
    gaussians, cameras = some_inputs(num, **options)
    gaussians["opacities"][:, ::3] = 0.97
    gaussians["quats"] = torch.nn.functional.normalize(gaussians["quats"], dim=-1)  # short ones magnify float32's error
    gaussians["scales"].clamp_(0.01, 0.3)  # so do needles
    gaussians["means"][:, 0] = torch.tensor([0.0, 0.1, 1.5])
    gaussians["scales"][:, 0] = 2.0
    gaussians["opacities"][:, 0] = 0.2
    gaussians["scales"][:, 1] = 1e-4
    gaussians["ids"] = gaussians["ids"].clone()
    gaussians["ids"][:, 7] = -1
    return gaussians, cameras


CASES = {
    "two sets, two views": lambda: arguments(*some_inputs(60), SETTINGS),
    "crowd": lambda: arguments(*crowd(), replace(SETTINGS, width=75, height=53)),
    "tall": lambda: arguments(*crowd(40, sets=1), replace(SETTINGS, width=9, height=267)),
    "anti-aliased": lambda: arguments(*crowd(80), replace(SETTINGS, antialiased=True)),
    "many channels": lambda: arguments(*crowd(50, sets=1, extras=11), SETTINGS),
    "no channels": lambda: arguments(*crowd(50, sets=3, views=1, extras=0), SETTINGS),
}


def _degenerate(case: str) -> tuple:
    gaussians, cameras = some_inputs(0 if case == "none" else 33)
    if case == "behind":
        gaussians["means"][..., 2] -= 20.0
    if case == "beside":
        gaussians["means"][..., 0] += 90.0
    if case == "not finite":
        for i, name in enumerate(("means", "quats", "scales", "opacities", "sh")):
            gaussians[name][:, i] = [float("nan"), float("inf")][i % 2]
    if case == "near plane":
        gaussians["means"][:, 0] = 0.0
        gaussians["means"][:, 1] = torch.tensor([0.0, 0.0, 0.01])
        gaussians["means"][:, 2] = torch.tensor([0.0, 0.0, 0.010001])
        gaussians["scales"][:, 3] = 0.0
    return arguments(gaussians, cameras, SETTINGS)


NAMES = ("none", "behind", "beside", "not finite", "near plane")
DEGENERATE = {name: lambda name=name: _degenerate(name) for name in NAMES}
