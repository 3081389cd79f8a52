"""Gaussians from posed pictures alone: a 3D Gaussian splatting trainer that needs neither depth nor a GPU.

The number of Gaussians only grows, to a fixed cap. Those that have faded are moved onto solid ones, which share their
opacity with them so that the picture stays as it was, and all centres jitter a little as long as they are faint: the
set explores like a Markov chain instead of being cloned, split and reset by thresholds.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from scene4d.errors import CalibrationError
from scene4d.geometry.camera import invert_rigid
from scene4d.geometry.neighbours import nearest
from scene4d.geometry.rotation import matrix_from_quat, normalize_quat
from scene4d.geometry.sh import sh_from_rgb
from scene4d.lift.refine.adam_loop import Adam, Progress, descend, finite
from scene4d.lift.rgb.mcmc_relocation import relocated
from scene4d.render.losses import l1, ssim
from scene4d.render.render import render
from scene4d.types import Frames, Gaussians

RATES = {"means": 1.6e-4, "log_scales": 5e-3, "quats": 1e-3, "logits": 5e-2, "colours": 2.5e-3, "harmonics": 1.25e-4}
JITTER = 5e5  # times the rate of the centres: how far faint Gaussians wander
SOLID = 0.005  # fainter ones have faded


@dataclass(frozen=True)
class SplatConfig:
    """How many Gaussians, and how long they learn."""

    steps: int = 6000
    """Gradient steps, one picture each."""
    max_seconds: float | None = None
    """Stop after so long even if steps are left; None = never, and the result is the same on every machine."""
    num_start: int = 20_000
    """Gaussians to begin with, where no points are given."""
    max_gaussians: int = 80_000
    """Gaussians at most."""
    growth: float = 0.05
    """Share by which the set grows each time, until the cap."""
    every: int = 100
    """Steps between two moves of faded Gaussians."""
    degree: int = 2
    """Spherical-harmonics degree of the colours; one more is added every sixth of the steps."""
    depth_range: tuple[float, float] = (0.2, 10.0)
    """Where points begin, in units of how far the cameras are from their common focus."""
    ssim_weight: float = 0.2
    """Share of structural similarity in the loss."""
    ssim_crop: int = 160
    """Side in px of the random crop that it looks at: it costs more than drawing the picture."""
    opacity_weight: float = 0.01
    """Pull of opacities towards 0, so that what is not needed fades."""
    scale_weight: float = 0.01
    """Pull of scales (in units of the extent) towards 0."""
    seed: int = 0
    """Of everything that is drawn at random."""


def splats_from_images(
    frames: Frames,
    *,
    points: tuple[Tensor, Tensor] | None = None,
    config: SplatConfig | None = None,
    progress: Progress | None = None,
) -> Gaussians:
    """Gaussians [n] that show the pictures [m] of one static scene from their cameras.

    Args:
        points: places [p 3] m and colours [p 3] to begin with (COLMAP's); by default random ones before the cameras.
    Returns:
        At most `max_gaussians`, sh of the configured degree, confidence 1.
    Raises:
        CalibrationError: fewer than three cameras, or all in one place. NumericsError: a loss was not finite.
    Source: Kerbl et al., 3D Gaussian Splatting, 2023; Kheradmand et al., 3D Gaussian Splatting as Markov Chain Monte
        Carlo, 2024.
    """
    config = config or SplatConfig()
    random = torch.Generator().manual_seed(config.seed)
    focus, extent = focus_and_extent(frames)
    places, rgb = points if points is not None else random_points(frames, focus=focus, config=config, random=random)
    rates = {**RATES, "means": RATES["means"] * extent}
    adam = Adam(initial_parameters(places, rgb, config=config), rates=rates, decay={"means": 0.01})
    order: list[int] = []

    def loss_of_step(step: int) -> Tensor:
        if not order:
            order.extend(torch.randperm(len(frames.rgb), generator=random).tolist())
        degree = min(config.degree, step * 6 // config.steps)
        loss = _loss(adam.leaves, frames[order.pop()], degree=degree, extent=extent, config=config, random=random)
        return finite(loss, field="splats", frame=step)

    @torch.no_grad()
    def after_step(step: int) -> None:
        if step % config.every == config.every - 1 and step > 4 * config.every and step < 0.85 * config.steps:
            _move_and_grow(adam, config=config, random=random)
        if step < 0.95 * config.steps:
            _jitter(adam.leaves, rate=adam.rate("means", done=step / config.steps), random=random)

    descend(
        loss_of_step,
        optimizer=adam,
        steps=config.steps,
        max_seconds=config.max_seconds,
        after_step=after_step,
        progress=progress,
    )
    with torch.no_grad():
        found = activated(adam.leaves, degree=config.degree)
        found = found.pick((found.opacities > SOLID) & found.means.isfinite().all(-1))
        return found.replace(extras={"confidence": torch.ones(found.num_gaussians, 1)}).detach()


def focus_and_extent(frames: Frames) -> tuple[Tensor, float]:
    """The point [3] nearest to all viewing axes, and the cameras' median distance to it in m.

    Raises:
        CalibrationError: the axes do not determine it: fewer than three cameras, or all in one place.
    """
    world = invert_rigid(frames.cameras.viewmats)
    places, axes = world[:, :3, 3], world[:, :3, 2]
    spread = float((places - places.mean(0)).norm(dim=-1).mean())
    if len(places) < 3 or spread < 1e-6:
        raise CalibrationError(
            "pictures from too few places to find depth", field="cameras", found=f"{len(places)}, {spread:.2g} m apart",
            expected="three or more", fix="add pictures, or record depth",
        )  # fmt: skip
    across = torch.eye(3) - axes[:, :, None] * axes[:, None]
    # A weak pull to a point before the middle camera decides where axes are nearly parallel.
    guess = (places + 2 * spread * axes).mean(0)
    normal = across.sum(0) + 1e-2 * torch.eye(3) * len(places)
    focus = torch.linalg.solve(normal, (across @ places[..., None]).sum(0)[:, 0] + 1e-2 * len(places) * guess)
    return focus, max(float((places - focus).norm(dim=-1).median()), spread)


def random_points(
    frames: Frames, *, focus: Tensor, config: SplatConfig, random: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Places [n 3] on the rays of random pixels, at random depths in the configured range, and their colours [n 3]."""
    count, height, width = frames.rgb.shape[:3]
    n = config.num_start
    view = torch.randint(0, count, (n,), generator=random)
    row = torch.randint(0, height, (n,), generator=random)
    column = torch.randint(0, width, (n,), generator=random)
    pixel = torch.stack([column + 0.5, row + 0.5, torch.ones(n)], -1)
    rays = (torch.linalg.inv(frames.cameras.Ks)[view] @ pixel[..., None])[..., 0]  # z = 1
    world = invert_rigid(frames.cameras.viewmats)[view]
    near, far = config.depth_range
    away = (world[:, :3, 3] - focus).norm(dim=-1)
    depth = away * torch.exp(math.log(near) + math.log(far / near) * torch.rand(n, generator=random))
    places = world[:, :3, 3] + (world[:, :3, :3] @ (rays * depth[:, None])[..., None])[..., 0]
    return places, frames.rgb[view, row, column]


def initial_parameters(places: Tensor, rgb: Tensor, *, config: SplatConfig) -> dict[str, Tensor]:
    """Free parameters by name: round, faint Gaussians as large as the gaps between the points."""
    n = len(places)
    gaps = nearest(places, places, num=4)[0][:, 1:].mean(-1).clamp_min(1e-7)
    params = {
        "means": places.clone(),
        "log_scales": (0.5 * gaps).log()[:, None].expand(n, 3).clone(),
        "quats": torch.tensor([1.0, 0, 0, 0]).expand(n, 4).clone(),
        "logits": torch.full((n,), 0.5).logit(),
        "colours": sh_from_rgb(rgb)[:, :1].clone(),
        "harmonics": torch.zeros(n, (config.degree + 1) ** 2 - 1, 3),
    }
    return {name: x.requires_grad_() for name, x in params.items()}


def activated(params: dict[str, Tensor], *, degree: int = 0) -> Gaussians:
    """The Gaussians [n] that the parameters stand for, colours up to `degree`."""
    sh = params["colours"]
    if "harmonics" in params:  # even at degree 0: Adam counts the steps of all
        sh = torch.cat([sh, params["harmonics"]], 1)[:, : (degree + 1) ** 2]
    return Gaussians(
        means=params["means"], quats=normalize_quat(params["quats"]), scales=params["log_scales"].exp(),
        opacities=params["logits"].sigmoid(), sh=sh,
    )  # fmt: skip


def _loss(
    params: dict[str, Tensor],
    target: Frames,
    *,
    degree: int,
    extent: float,
    config: SplatConfig,
    random: torch.Generator,
) -> Tensor:
    gaussians = activated(params, degree=degree)
    drawn = render(gaussians, target.cameras, near=1e-3 * extent).rgb
    usable = target.alpha
    loss = (1 - config.ssim_weight) * l1(drawn, target.rgb, mask=usable)
    if config.ssim_weight > 0:
        height, width = drawn.shape[:2]
        side = min(config.ssim_crop, height, width)
        top, left = (int(torch.randint(0, n - side + 1, (), generator=random)) for n in (height, width))
        box = (slice(top, top + side), slice(left, left + side))
        seen = drawn[box]
        if usable is not None:  # what cannot be used is made equal, so that it does not count
            seen = torch.where(usable[box][..., None] > 0, seen, target.rgb[box])
        loss = loss + config.ssim_weight * (1 - ssim(seen, target.rgb[box]))
    faint = config.opacity_weight * gaussians.opacities.mean()
    return loss + faint + config.scale_weight * gaussians.scales.mean() / extent


def _move_and_grow(adam: Adam, *, config: SplatConfig, random: torch.Generator) -> None:
    """Faded Gaussians onto solid ones, new ones beside them up to the cap; Adam forgets those that changed."""
    params = adam.leaves
    opacities = params["logits"].sigmoid()
    faded = (opacities <= SOLID) | ~params["means"].isfinite().all(-1)
    n = len(opacities)
    new = min(int(config.growth * n), config.max_gaussians - n)
    onto = torch.cat([faded.nonzero()[:, 0], torch.arange(n, n + max(new, 0))])
    if len(onto) == 0 or bool(faded.all()):
        return
    weights = torch.where(faded, 0.0, opacities)
    source = torch.multinomial(weights, len(onto), replacement=True, generator=random)
    copies = torch.bincount(source, minlength=n) + 1
    shared, log_scales = relocated(opacities, params["log_scales"], copies=copies)
    changed = copies > 1
    values = {name: x.detach().clone() for name, x in params.items()}
    values["logits"][changed] = shared[changed].clamp(SOLID, 1 - 1e-6).logit()
    values["log_scales"][changed] = log_scales[changed]
    grown = {name: torch.cat([x, x.new_zeros(max(new, 0), *x.shape[1:])]) for name, x in values.items()}
    for x in grown.values():
        x[onto] = x[source]
    touched = torch.cat([onto, changed.nonzero()[:, 0]])
    adam.replace(grown, touched=touched)


def _jitter(params: dict[str, Tensor], *, rate: float, random: torch.Generator) -> None:
    """Moves centres at random, along their own axes, the more the fainter they are."""
    opacities = params["logits"].sigmoid()
    loose = torch.sigmoid(-100 * (opacities - 0.005))[:, None]
    axes = matrix_from_quat(normalize_quat(params["quats"])) * params["log_scales"].exp()[:, None]  # [n 3 3]
    noise = torch.randn(len(opacities), 3, 1, generator=random)
    params["means"] += (axes @ (axes.transpose(1, 2) @ noise))[..., 0] * loose * (JITTER * rate)
