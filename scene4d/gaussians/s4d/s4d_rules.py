"""What the tensors of a .s4d must be for a scene to be usable: kinds of numbers, ranges, and counts that agree."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from scene4d.errors import ShapeError

INTEGERS = ("ids", "skin_index")
SH_BASES = (1, 4, 9, 16)
COUNTS = {"num_gaussians": ("ids", -1), "num_anchors": ("anchors", -2), "num_frames": ("times", -1)}


def check_base(base: Mapping[str, Tensor], manifest: Mapping[str, Any]) -> None:
    """Refuse what `Scene4D` would take but motion, rendering or saving could not work with.

    Raises:
        ShapeError: names the tensor. KeyError: one is missing.
    """
    for name, (tensor, axis) in COUNTS.items():
        if base[tensor].ndim < -axis or manifest.get(name) != base[tensor].shape[axis]:
            found = manifest.get(name)
            raise ShapeError("manifest and tensors differ", field=name, found=found, expected=list(base[tensor].shape))
    for name, x in base.items():
        wanted = x.dtype == torch.bool if name == "observed" else _is_integer(x) == (name in INTEGERS)
        if not wanted and not name.startswith("extras/"):
            raise ShapeError("holds the wrong kind of number", field=name, found=str(x.dtype))
    if base["sh"].ndim < 3 or base["sh"].shape[-2] not in SH_BASES:
        raise ShapeError("fits no SH degree", field="sh", found=list(base["sh"].shape), expected="[n k 3], k 1 4 9 16")
    if not bool(base["times"].isfinite().all()) or bool((base["times"].diff(dim=-1) < 0).any()):
        raise ShapeError("do not run forward", field="times", expected="finite seconds, none before the last")
    index = base["skin_index"]
    if index.numel() and not 0 <= int(index.min()) <= int(index.max()) < base["anchors"].shape[-2]:
        raise ShapeError("points outside the anchors", field="skin_index", found=[int(index.min()), int(index.max())])


def check_instants(instants: Sequence[Mapping[str, Tensor]], base: Mapping[str, Tensor]) -> None:
    """Refuse instants whose tensors differ in name, kind or shape, or that change what the base does not have.

    Raises:
        ShapeError: names the tensor.
    """
    lead = tuple(base["anchors"].shape[:-1])
    expected: dict[str, tuple[int, ...]] = {"world_from_rest": (*lead, 7), "log_var": (*lead, 6)}
    for instant in instants:
        if instant.keys() != instants[0].keys() or "world_from_rest" not in instant:
            raise ShapeError("instants hold different tensors", field="frames", found=sorted(instant)[:8])
        for name, x in instant.items():
            if name not in expected:
                expected[name] = _shape_of_residual(name, base)
            if tuple(x.shape) != expected[name] or not x.is_floating_point() or x.dtype != instants[0][name].dtype:
                found = f"{x.dtype} {list(x.shape)}"
                raise ShapeError("does not fit the base", field=name, found=found, expected=expected[name])


def _shape_of_residual(name: str, base: Mapping[str, Tensor]) -> tuple[int, ...]:
    """[*b n c] of the field or extra that `residual/<name>` is added to, its own axes flattened into c."""
    field = name.removeprefix("residual/")
    changed = base.get(f"extras/{field}", base.get(field if field in ("means", "quats", "scales", "sh") else ""))
    if changed is None and field == "opacities":
        changed = base["opacities"][..., None]
    if changed is None or field == name:
        raise ShapeError("changes nothing that the base has", field=name[:80])
    rows = base["ids"].shape
    return (*rows, int(changed.shape[len(rows) :].numel()))


def _is_integer(x: Tensor) -> bool:
    return not x.is_floating_point() and not x.is_complex() and x.dtype != torch.bool
