"""Depth from known cameras: how well pictures agree once one is warped into another by a guess of it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, interpolate

from scene4d.geometry.camera import invert_rigid, pixel_centres
from scene4d.lift.rgbd.depth_images import sample_grids
from scene4d.types import Cameras, Frames

GRAY = (0.299, 0.587, 0.114)
TEXTURE = 0.01  # standard deviation of brightness in a patch below which it is not compared


@dataclass(frozen=True)
class Pictures:
    """Grey pictures [v h w] with their cameras [v], of a size that matching can afford."""

    gray: Tensor
    cameras: Cameras


def pictures_of(frames: Frames, *, width: int) -> Pictures:
    """Frames [v] in grey, at most `width` px wide, intrinsics scaled along."""
    gray = (frames.rgb * frames.rgb.new_tensor(GRAY)).sum(-1)
    return Pictures(shrunk(gray, width=width), scaled_cameras(frames.cameras, width=width))


def shrunk(images: Tensor, *, width: int) -> Tensor:
    """Images [v h w] averaged down to `width` px, heights in proportion; smaller ones as they are."""
    height, old = images.shape[-2:]
    if old <= width:
        return images
    size = (max(1, round(height * width / old)), width)
    return interpolate(images[:, None], size=size, mode="area")[:, 0]


def scaled_cameras(cameras: Cameras, *, width: int) -> Cameras:
    """Cameras [v] of the images that `shrunk` makes."""
    if cameras.width <= width:
        return cameras
    return cameras.resized(width, max(1, round(cameras.height * width / cameras.width)))


def neighbours_of(
    cameras: Cameras, *, num: int, min_baseline: float, max_angle: float, groups: Tensor | None = None
) -> list[list[int]]:
    """For every camera [v] others to match with: near ones, which look alike, and farther ones, which see depth better.

    They are taken evenly from the nearer half, by distance in m plus angle of axes in rad. Cameras nearer than
    `min_baseline` m see no depth, those turned by more than `max_angle` rad other surfaces. With `groups` [v] only
    cameras of one group (an instant, say) are matched.
    """
    poses = invert_rigid(cameras.viewmats)
    apart = torch.cdist(poses[:, :3, 3], poses[:, :3, 3])
    angle = (poses[:, :3, 2] @ poses[:, :3, 2].T).clamp(-1.0, 1.0).arccos()
    usable = (apart >= min_baseline) & (angle <= max_angle)
    if groups is not None:
        usable &= groups[:, None] == groups[None]
    order = torch.where(usable, apart + angle, torch.inf).argsort(dim=-1, stable=True)
    chosen = []
    for i, row in enumerate(order.tolist()):
        found = row[: int(usable[i].sum())]
        last = max(min(num, len(found)) - 1, (len(found) - 1) // 2)
        chosen.append(sorted({found[round(k * last / max(1, num - 1))] for k in range(num)}) if found else [])
    return chosen


@dataclass(frozen=True)
class Warp:
    """Where the pixels of one camera lie in another: pixels ~ `far` [h w 3] + inverse depth times `near` [3]."""

    far: Tensor
    near: Tensor
    width: int
    height: int

    def pixels(self, inverse: Tensor) -> tuple[Tensor, Tensor]:
        """(pixels [... h w 2], inside [... h w]) for inverse depths [... h w] in 1/m."""
        x, y, z = (self.far + self.near * inverse[..., None]).unbind(-1)
        safe = z.clamp_min(1e-6)
        x, y = x / safe, y / safe
        inside = (z > 1e-6) & (x >= 0) & (x < self.width) & (y >= 0) & (y < self.height)
        return torch.stack([x, y], -1), inside

    def sample(self, images: Tensor, inverse: Tensor) -> tuple[Tensor, Tensor]:
        """(values [k h w], inside [k h w]) of the other camera's image [h w] seen through inverse depths [k h w]."""
        pixels, inside = self.pixels(inverse)
        return sample_grids(images[None], pixels)[:, 0], inside


def warp_between(cameras: Cameras, *, here: int, there: int) -> Warp:
    """The warp from camera `here` to camera `there` of cameras [v]."""
    other_from_here = cameras.viewmats[there] @ invert_rigid(cameras.viewmats[here])
    pixels = pixel_centres(cameras.width, cameras.height, like=cameras.Ks)
    rays = torch.cat([pixels, torch.ones_like(pixels[..., :1])], -1) @ torch.linalg.inv(cameras.Ks[here]).T
    lens = cameras.Ks[there]
    far = rays @ (lens @ other_from_here[:3, :3]).T
    return Warp(far=far, near=lens @ other_from_here[:3, 3], width=cameras.width, height=cameras.height)


def patch_agreement(images: Tensor, other: Tensor, *, reach: int) -> Tensor:
    """Normalised cross-correlation [k h w] of the patches of (2 reach + 1)^2 px round each pixel of two image sets.

    Blind to gain and offset of the light; near 0 where either has no texture.
    """
    mean = lambda x: _patch_mean(x, reach)
    images = images.expand_as(other)
    a, b = mean(images), mean(other)
    covariance = mean(images * other) - a * b
    spread_a, spread_b = mean(images * images) - a * a, mean(other * other) - b * b
    return covariance / ((spread_a + TEXTURE**2) * (spread_b + TEXTURE**2)).clamp_min(1e-12).sqrt()


def _patch_mean(images: Tensor, reach: int) -> Tensor:
    return avg_pool2d(images[:, None], 2 * reach + 1, 1, reach, count_include_pad=False)[:, 0]


def hypothesis_scores(
    pictures: Pictures, inverse: Tensor, *, here: int, others: list[int], reach: int = 3, batch: int = 64
) -> Tensor:
    """How well [k] each of the inverse depths [k h w] of picture `here` agrees with the other pictures.

    The mean patch agreement; pixels that would lie outside the other picture agree not at all.
    """
    total = inverse.new_zeros(len(inverse))
    mine = pictures.gray[here][None]
    for there in others:
        warp = warp_between(pictures.cameras, here=here, there=there)
        for first in range(0, len(inverse), batch):
            values, inside = warp.sample(pictures.gray[there], inverse[first : first + batch])
            agreement = patch_agreement(mine, values, reach=reach).clamp_min(0.0) * inside
            total[first : first + batch] += agreement.mean((-2, -1))
    return total / max(1, len(others))


@dataclass(frozen=True)
class Measured:
    """Inverse depths found in one picture: pixels [n] (flat), inverse [n] in 1/m, weights [n] in 0..1."""

    pixels: Tensor
    inverse: Tensor
    weights: Tensor


def plane_sweep(
    pictures: Pictures, inverse: Tensor, *, here: int, there: int, spread: float, num: int = 15, reach: int = 2
) -> Measured:
    """Inverse depths at which picture `here` agrees best with `there`, near a guess [h w] of them.

    The whole guess is scaled by `num` factors within 1 +- `spread`; each pixel takes the factor whose patch agrees
    best, to a fraction of a step. Only clear interior peaks count.
    """
    factors = torch.linspace(1 - spread, 1 + spread, num).to(inverse)
    warp = warp_between(pictures.cameras, here=here, there=there)
    values, inside = warp.sample(pictures.gray[there], inverse * factors[:, None, None])
    agreement = patch_agreement(pictures.gray[here][None], values, reach=reach)
    agreement = torch.where(inside, agreement, -1.0)
    best = agreement.argmax(0)
    middle = best.clamp(1, num - 2)
    before, at, after = (agreement.gather(0, (middle + k)[None])[0] for k in (-1, 0, 1))
    bend = (2 * at - before - after).clamp_min(1e-9)
    offset = (0.5 * (after - before) / bend).clamp(-0.5, 0.5)
    good = (best == middle) & (at > 0.6) & (before > -1) & (after > -1) & (bend > 1e-4)
    found = inverse * (factors[middle] + offset * (factors[1] - factors[0]))
    keep = good.flatten().nonzero()[:, 0]
    # A sharp peak is well placed: its width is what the noise moves it by.
    weights = (at * bend / (bend + 0.02)).flatten()[keep]
    return Measured(pixels=keep, inverse=found.flatten()[keep], weights=weights)


def share_confirmed(pictures: Pictures, inverse: Tensor, *, here: int, others: list[int], reach: int = 2) -> float:
    """Share of the textured pixels of picture `here`, seen by another, that look alike there at inverse depths [h w].

    Each pixel counts where it agrees best, since any other picture may be blocked; NaN if nothing can be compared.
    """
    mine = pictures.gray[here]
    best = torch.full_like(mine, -1.0)
    for there in others:
        warp = warp_between(pictures.cameras, here=here, there=there)
        values, inside = warp.sample(pictures.gray[there], inverse[None])
        agreement = patch_agreement(mine[None], values, reach=reach)[0]
        best = torch.where(inside[0], torch.maximum(best, agreement), best)
    variance = _patch_mean((mine * mine)[None], reach) - _patch_mean(mine[None], reach) ** 2
    compared = (best > -1) & (variance[0].clamp_min(0.0).sqrt() > TEXTURE)
    return float((best[compared] > 0.6).float().mean()) if bool(compared.any()) else float("nan")
