"""Sets of Gaussians joined, moved, thinned and mended."""

from __future__ import annotations

import os
from collections.abc import Sequence

import torch
from torch import Tensor

from scene4d.check import check
from scene4d.errors import GaussianError, ShapeError
from scene4d.geometry.rotation import apply_pose, multiply_quat, normalize_quat, rotate
from scene4d.geometry.sh import rotate_sh
from scene4d.geometry.skinning import DIRECTION_EXTRAS
from scene4d.types import Gaussians

MAX_SCALE = 1e4
MIN_SCALE = 1e-12
SLACK = 1e-4


def concatenate(sets: Sequence[Gaussians], *, renumber: bool = False) -> Gaussians:
    """The rows of all sets [*b n_i] in one, in order.

    SH of a lower degree is filled up with zeros; extras that all sets have are kept. Ids are kept as they are (who
    joins sets with overlapping ids must `renumber`, which counts rows from 0 and leaves empty slots empty).

    Raises:
        ShapeError: no sets, or batch axes that differ.
    """
    if not sets:
        raise ShapeError("nothing to concatenate", field="sets", found=0, expected="at least one set")
    axis = len(sets[0].batch_shape)
    if any(g.batch_shape != sets[0].batch_shape for g in sets):
        found = [g.batch_shape for g in sets]
        raise ShapeError("batch axes differ", field="sets", found=found, expected="all the same")
    num_bases = max(g.sh.shape[-2] for g in sets)
    shared = set.intersection(*(set(g.extras) for g in sets))
    names = ("means", "quats", "scales", "opacities", "ids")
    means, quats, scales, opacities, ids = (torch.cat([getattr(g, name) for g in sets], axis) for name in names)
    if renumber:
        ids = torch.where(ids >= 0, torch.arange(ids.shape[-1], device=ids.device), ids)
    sh = torch.cat([with_sh_bases(g.sh, num_bases) for g in sets], axis)
    extras = {k: torch.cat([g.extras[k] for g in sets], axis) for k in sorted(shared)}
    return Gaussians(means=means, quats=quats, scales=scales, opacities=opacities, sh=sh, ids=ids, extras=extras)


def with_sh_bases(sh: Tensor, num_bases: int) -> Tensor:
    """Coefficients [*b n k 3] cut, or filled up with zeros, to `num_bases`."""
    have = sh.shape[-2]
    if have >= num_bases:
        return sh[..., :num_bases, :]
    return torch.cat([sh, sh.new_zeros(*sh.shape[:-2], num_bases - have, 3)], -2)


def transform(gaussians: Gaussians, pose: Tensor) -> Gaussians:
    """The set moved rigidly by `pose` b_from_a [*b 7] (or one [7] for all): means, quats, sh and extras["normals"]."""
    check(pose=(pose, "*p 7"))
    pose = torch.cat([normalize_quat(pose[..., :4]), pose[..., 4:]], -1).to(gaussians.means.dtype)[..., None, :]
    turn = pose[..., :4]
    turned = {k: rotate(turn, v) for k, v in gaussians.extras.items() if k in DIRECTION_EXTRAS}
    return gaussians.replace(
        means=apply_pose(pose, gaussians.means),
        quats=multiply_quat(turn.expand_as(gaussians.quats), gaussians.quats),
        sh=rotate_sh(gaussians.sh, turn),
        extras={**gaussians.extras, **turned},
    )


def prune(gaussians: Gaussians, *, min_opacity: float = 0.0) -> Gaussians:
    """The rows of an unbatched set that are no empty slots and at least as opaque as `min_opacity`; ids stay."""
    return gaussians.pick((gaussians.ids >= 0) & (gaussians.opacities >= min_opacity))


def subsample(gaussians: Gaussians, num_gaussians: int, *, seed: int = 0) -> Gaussians:
    """At most `num_gaussians` rows of an unbatched set, drawn evenly, no empty slots, in their old order; ids stay."""
    rows = (gaussians.ids >= 0).nonzero().squeeze(-1)
    if len(rows) > num_gaussians:
        generator = torch.Generator().manual_seed(seed)
        rows = rows[torch.randperm(len(rows), generator=generator)[:num_gaussians].sort().values.to(rows.device)]
    return gaussians.pick(rows)


def sanitize(
    gaussians: Gaussians, *, strict: bool = False, file: str | os.PathLike | None = None
) -> tuple[Gaussians, dict[str, int]]:
    """An unbatched set without impossible values, and how many rows each rule touched.

    Dropped: rows with a mean, scale, quaternion, opacity or colour that is not finite. Mended: scales outside
    [1e-12, 1e4] m, opacities outside [0, 1] (clamped), zero quaternions (identity), others normalised.

    Raises:
        GaussianError: `strict` and anything was wrong (quaternions of another length are not); names the first row.
    """
    g = gaussians
    fields = {"means": g.means, "quats": g.quats, "scales": g.scales, "opacities": g.opacities[..., None]}
    finite = {k: v.isfinite().all(-1) for k, v in fields.items()} | {"sh": g.sh.isfinite().all(-1).all(-1)}
    wrong = {f"{k}_not_finite": ~v for k, v in finite.items()}
    # A limit that went through a file as a logarithm comes back a little beyond itself.
    small, large = g.scales < MIN_SCALE * (1 - SLACK), g.scales > MAX_SCALE * (1 + SLACK)
    wrong["scales_out_of_range"] = (small | large).any(-1) & finite["scales"]
    wrong["opacities_out_of_range"] = (g.opacities < 0) | (g.opacities > 1)
    wrong["quats_zero"] = g.quats.norm(dim=-1) <= 1e-6
    counts = {k: int(v.sum()) for k, v in wrong.items()}
    counts = {k: v for k, v in counts.items() if v}
    if counts and strict:
        name = next(iter(counts))
        where = {"file": file, "field": name.split("_")[0], "frame": int(wrong[name].nonzero()[0])}
        fix = "read without strict to mend them"
        raise GaussianError("impossible values", **where, found=counts, expected="none", fix=fix)
    good = torch.stack(list(finite.values())).all(0)
    if not bool(good.all()):
        g = g.pick(good)
    return g.replace(
        quats=normalize_quat(g.quats), scales=g.scales.clamp(MIN_SCALE, MAX_SCALE), opacities=g.opacities.clamp(0, 1)
    ), counts


def by_id(values: Tensor, ids: Tensor, *, wanted: Tensor) -> tuple[Tensor, Tensor]:
    """Rows of values [m c] with the wanted ids [n], zero where there is no such id, and found [n] bool."""
    if len(ids) == 0:
        return values.new_zeros(len(wanted), *values.shape[1:]), torch.zeros_like(wanted, dtype=torch.bool)
    order = ids.argsort()
    place = torch.searchsorted(ids[order].contiguous(), wanted.contiguous()).clamp_max(len(ids) - 1)
    rows = order[place]
    found = (ids[rows] == wanted) & (wanted >= 0)
    return values[rows] * found.reshape(-1, *[1] * (values.dim() - 1)), found
