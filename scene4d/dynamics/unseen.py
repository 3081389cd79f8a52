"""New matter: what the codec holds to be where no camera has looked."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from scene4d.gaussians.edit import concatenate
from scene4d.geometry.camera import project
from scene4d.geometry.rotation import normalize_quat, rotate
from scene4d.render.render import render
from scene4d.types import Cameras, Gaussians
from scene4d.worldmodel import Forecast, State

MIN_OPACITY = 0.3
HIDDEN_MARGIN = 0.03
"""Metres behind the seen surface from which a decoded centre counts as never seen."""
VISIBLE_PIXELS = 0.1
"""Pixels' worth of a decoded Gaussian that may show in the input cameras."""
WIDE = 0.02
"""Standard deviation in m from which a Gaussian that shows is split rather than dropped."""
FAINT = 0.01


def unseen_matter(state: State, forecast: Forecast, *, codec: Any) -> tuple[Gaussians | None, Tensor | None]:
    """Decoded Gaussians [*b r], at rest, that no camera of the context can have seen, and their tokens [*b r].

    Decoded are the tokens of the last predicted step about the anchors of now: what the model holds to be there.
    """
    cameras = input_cameras(state.context)
    if cameras is None:
        return None, None
    final = forecast.latent.map(lambda x: x.select(len(state.batch_shape), -1))  # [*b l c]
    decoded = codec.decode(final.replace(anchors=state.skin.anchors))
    lead, num_tokens = state.batch_shape, state.skin.anchors.shape[-2]
    if not lead:
        return _unseen(decoded, state.memory, cameras, num_tokens)
    num = math.prod(lead)
    flatten = lambda noun: noun.map(lambda x: x.reshape(num, *x.shape[len(lead) :]))
    decoded, memory, cameras = flatten(decoded), flatten(state.memory), flatten(cameras)
    picked = [_unseen(decoded[i], memory[i], cameras[i], num_tokens) for i in range(num)]
    new = Gaussians.stack([g for g, _ in picked])
    most = new.num_gaussians
    token = torch.stack([torch.cat([t, t.new_zeros(most - len(t))]) for _, t in picked])
    return new.map(lambda x: x.reshape(*lead, *x.shape[1:])), token.reshape(*lead, most)


def _unseen(decoded: Gaussians, memory: Gaussians, cameras: Cameras, num_tokens: int) -> tuple[Gaussians, Tensor]:
    """What of a decoded set is out of sight: whole Gaussians, and those quarters of the others that do not show."""
    token = torch.arange(decoded.num_gaussians, device=decoded.means.device) // (decoded.num_gaussians // num_tokens)
    decoded = decoded.replace(extras={"token": token[:, None]}).pick(decoded.opacities > MIN_OPACITY)
    whole = _out_of_sight(decoded, memory, cameras)
    wide = ~whole & (decoded.scales.amax(-1) > WIDE)
    quarters = split_in_four(decoded.pick(wide))
    kept = [decoded.pick(whole), quarters.pick(_out_of_sight(quarters, memory, cameras))]
    new = concatenate(kept)
    start = int(memory.ids.max()) + 1
    ids = start + torch.arange(new.num_gaussians, device=decoded.means.device)
    return new.replace(ids=ids, extras={}), new.extras["token"][:, 0]


def _out_of_sight(new: Gaussians, memory: Gaussians, cameras: Cameras) -> Tensor:
    hidden = hidden_from(new.means, memory, cameras=cameras)
    return hidden & (visible_pixels(new, memory, cameras=cameras) < VISIBLE_PIXELS)


def hidden_from(points: Tensor, memory: Gaussians, *, cameras: Cameras) -> Tensor:
    """Which points [n 3] lie behind what every camera [v] sees of the memory, or outside its image: [n] bool."""
    frames = render(memory, cameras)  # [v h w]
    pixels, depth = project(
        points.expand(len(cameras.viewmats), -1, -1), cameras.viewmats, cameras.Ks
    )  # [v n 2], [v n]
    column, row = pixels[..., 0].floor().long(), pixels[..., 1].floor().long()
    inside = (column >= 0) & (column < cameras.width) & (row >= 0) & (row < cameras.height) & (depth > 0)
    at = row.clamp(0, cameras.height - 1) * cameras.width + column.clamp(0, cameras.width - 1)
    surface = frames.depth.flatten(1).gather(1, at)
    covered = frames.alpha.flatten(1).gather(1, at) > 0.5
    return (~inside | (covered & (depth > surface + HIDDEN_MARGIN))).all(0)


def visible_pixels(new: Gaussians, memory: Gaussians, *, cameras: Cameras) -> Tensor:
    """How many pixels' worth of each of `new` [n] the cameras [v] would see with the memory in front: [n].

    A centre behind the surface is not enough: a wide Gaussian still shows beside a silhouette. The sum over pixels of a
    Gaussian's blending weight is the derivative of a blended channel by its value, so one backward pass gives all. The
    new ones are made faint, so that they do not hide each other.
    """
    faint = new.replace(opacities=new.opacities * FAINT, extras={}, ids=torch.arange(new.num_gaussians))
    both = joined(memory.replace(extras={}), faint)
    with torch.enable_grad():
        value = torch.zeros(both.num_gaussians, 1, requires_grad=True)
        frames = render(both.replace(extras={"value": value}), cameras, extras=("value",))
        (weight,) = torch.autograd.grad(frames.extras["value"].sum(), value)
    return weight[memory.num_gaussians :, 0] / FAINT


def input_cameras(context: Mapping[str, Any]) -> Cameras | None:
    """The context's cameras as one Cameras [*b v]: given so, or as {name: Cameras [*b]}."""
    cameras = context.get("cameras")
    if cameras is None or isinstance(cameras, Cameras):
        return cameras
    each = list(cameras.values())
    return Cameras.stack(each, dim=len(each[0].batch_shape)) if each else None


def split_in_four(gaussians: Gaussians) -> Gaussians:
    """Each of [n] as four half as long along its two longest axes, [4n]; together they cover what it covered."""
    order = gaussians.scales.argsort(-1, descending=True)[:, :2]  # [n 2]
    axes = torch.nn.functional.one_hot(order, 3).to(gaussians.means)  # [n 2 3]
    signs = gaussians.means.new_tensor([[-1, -1], [-1, 1], [1, -1], [1, 1]])
    local = 0.75 * torch.einsum("kj,nja,na->nka", signs, axes, gaussians.scales)  # [n 4 3]
    means = gaussians.means[:, None] + rotate(normalize_quat(gaussians.quats)[:, None], local)
    scales = gaussians.scales * (1 - 0.45 * axes.sum(1))
    four = gaussians.replace(scales=scales).map(lambda x: x.repeat_interleave(4, 0))
    return four.replace(means=means.flatten(0, 1))


def joined(memory: Gaussians, new: Gaussians) -> Gaussians:
    """Both sets [*b n+r] as one; `new` takes zeros for what the memory knows besides, fewer SH bases are filled up."""
    axis = len(memory.batch_shape)
    bases = max(memory.sh.shape[-2], new.sh.shape[-2])
    fill = lambda sh: torch.nn.functional.pad(sh, (0, 0, 0, bases - sh.shape[-2]))
    extras = {
        k: torch.zeros(*new.opacities.shape, v.shape[-1], dtype=v.dtype, device=v.device)
        for k, v in memory.extras.items()
    }
    both = lambda a, b: torch.cat([a, b], axis)
    return Gaussians(
        means=both(memory.means, new.means),
        quats=both(memory.quats, new.quats),
        scales=both(memory.scales, new.scales),
        opacities=both(memory.opacities, new.opacities),
        sh=both(fill(memory.sh), fill(new.sh)),
        ids=both(memory.ids, new.ids),
        extras={k: both(v, extras[k]) for k, v in memory.extras.items()},
    )
