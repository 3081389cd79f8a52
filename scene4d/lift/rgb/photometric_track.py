"""Gaussians carried from one instant to the next by pictures alone: only what the pictures contradict may move."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from scene4d.geometry.neighbours import nearest
from scene4d.geometry.rotation import multiply_quat, quat_from_rotvec
from scene4d.lift.refine.adam_loop import Adam, descend
from scene4d.render.losses import l1
from scene4d.render.render import render
from scene4d.types import Frames, Gaussians


@dataclass(frozen=True)
class PhotometricTrackConfig:
    """How Gaussians follow the pictures."""

    steps: int = 40
    """Gradient steps an instant, all pictures each."""
    shift_rate: float = 0.1
    """Learning rate of positions, in units of a Gaussian's mean scale."""
    turn_rate: float = 0.01
    """Learning rate of rotations in rad."""
    colour_rate: float = 0.01
    """Learning rate of colours: objects keep theirs, but light changes and new ones come into view."""
    changed: float = 0.04
    """Colour difference from the instant before at which a pixel has changed."""
    share: float = 0.15
    """Share of a Gaussian's pixels that must have changed for it to move."""
    rigid_weight: float = 0.5
    """Weight of neighbours moving apart, in squared units of their scale."""
    num_neighbours: int = 6
    """Neighbours that it is held to."""
    still: float = 0.15
    """Motion between two instants, in units of the scale, below which a Gaussian rests."""


def changed_pixels(now: Frames, before: Frames, *, shown: Frames, config: PhotometricTrackConfig) -> Tensor:
    """[v h w] where pictures show something else than an instant before.

    A camera that stood still is compared with its picture before, the others, if none did, with what was shown.
    """
    stood = (now.cameras.viewmats - before.cameras.viewmats).abs().amax((1, 2)) < 1e-4  # [v]
    reference = before.rgb if bool(stood.any()) else shown.rgb
    changed = (now.rgb - reference).abs().amax(-1) > config.changed
    changed &= stood[:, None, None] | ~stood.any()
    return changed if now.alpha is None else changed & (now.alpha > 0.5)


def track_step(
    gaussians: Gaussians, now: Frames, *, before: Frames, shift: Tensor, config: PhotometricTrackConfig
) -> tuple[Gaussians, Tensor]:
    """The Gaussians [n] of the instant `before` [v] as the pictures of `now` [v] show them.

    Args:
        shift: [n 3] m how far each went between the last two instants; it is expected to go on.
    Returns:
        (the same rows, shift [n 3] of this step: exactly 0 for what rests).
    """
    active = active_rows(gaussians, now, before=before, config=config)
    rows = active.nonzero()[:, 0]
    if len(rows) == 0:
        return gaussians, torch.zeros_like(shift)
    start = gaussians.pick(rows)
    unit = start.scales.mean(-1, keepdim=True)
    params = {
        "shift": (shift[rows] / unit).clone(),
        "turn": torch.zeros_like(start.means),
        "colour": torch.zeros_like(start.sh),
    }
    params = {name: x.requires_grad_() for name, x in params.items()}
    rates = {"shift": config.shift_rate, "turn": config.turn_rate, "colour": config.colour_rate}
    near = nearest(start.means, start.means, num=min(config.num_neighbours + 1, len(rows)))[1][:, 1:]

    def loss_of_step(step: int) -> Tensor:
        drawn = render(_put(gaussians, rows, some=_moved(start, params, unit=unit)), now.cameras)
        loss = l1(drawn.rgb, now.rgb, mask=now.alpha) * now.rgb[..., 0].numel() / len(rows)
        apart = params["shift"][:, None] * unit[:, None] - (params["shift"] * unit)[near]  # [r j 3]
        return loss + config.rigid_weight * (apart / unit[:, None]).square().sum(-1).mean()

    adam = Adam(params, rates=rates, decay=dict.fromkeys(rates, 0.1), eps=1e-8, foreach=None)
    descend(loss_of_step, optimizer=adam, steps=config.steps)
    with torch.no_grad():
        rests = params["shift"].norm(dim=-1) < config.still
        params["shift"][rests] = 0
        params["turn"][rests] = 0
        moved = _put(gaussians, rows, some=_moved(start, params, unit=unit)).detach()
        return moved, torch.zeros_like(shift).index_copy(0, rows, params["shift"].detach() * unit)


def active_rows(gaussians: Gaussians, now: Frames, *, before: Frames, config: PhotometricTrackConfig) -> Tensor:
    """[n] which Gaussians lie on pixels that changed: by what share of all they draw."""
    weight = gaussians.sh.detach().clone().requires_grad_()
    drawn = render(gaussians.replace(sh=weight), now.cameras)
    changed = changed_pixels(now, before, shown=drawn.detach(), config=config)
    if not bool(changed.any()):
        return torch.zeros(gaussians.num_gaussians, dtype=torch.bool)
    part = torch.autograd.grad((drawn.rgb * changed[..., None]).sum(), weight, retain_graph=True)[0]
    whole = torch.autograd.grad(drawn.rgb.sum(), weight)[0]
    part, whole = part.abs().sum((-2, -1)), whole.abs().sum((-2, -1))
    return (part > config.share * whole) & (part > 1e-3)


def _moved(start: Gaussians, params: dict[str, Tensor], *, unit: Tensor) -> Gaussians:
    return start.replace(
        means=start.means + params["shift"] * unit,
        quats=multiply_quat(quat_from_rotvec(params["turn"]), start.quats),
        sh=start.sh + params["colour"],
    )


def _put(gaussians: Gaussians, rows: Tensor, *, some: Gaussians) -> Gaussians:
    changed = {k: getattr(gaussians, k).index_copy(0, rows, getattr(some, k)) for k in ("means", "quats", "sh")}
    return gaussians.replace(**changed)
