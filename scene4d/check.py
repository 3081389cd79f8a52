"""The one shape check: `check(means=(x, "n 3"), quats=(q, "n 4"))`."""

from __future__ import annotations

import torch

from scene4d.errors import ShapeError


def check(**tensors: tuple[torch.Tensor | None, str]) -> dict[str, int | tuple[int, ...]]:
    """Check tensors against named shapes; a name means the same size everywhere in one call.

    A shape is words: an integer, a name (`n`), `_` (any size), or, first only, `*name` for any number of leading axes.
    None is passed over, so optional tensors need no branch.

    Returns:
        The size bound to each name.
    Raises:
        ShapeError: naming the tensor, its shape and what was expected.
    """
    sizes: dict[str, int | tuple[int, ...]] = {}
    for name, (tensor, spec) in tensors.items():
        if tensor is None:
            continue
        if not isinstance(tensor, torch.Tensor):
            raise ShapeError("is not a tensor", field=name, found=type(tensor).__name__, expected=f"[{spec}]")
        if not _bind(tuple(tensor.shape), spec.split(), sizes=sizes):
            known = ", ".join(f"{k}={v}" for k, v in sizes.items())
            expected = f"[{spec}]" + (f" with {known}" if known else "")
            raise ShapeError("has the wrong shape", field=name, found=list(tensor.shape), expected=expected)
    return sizes


def _bind(shape: tuple[int, ...], words: list[str], *, sizes: dict) -> bool:
    if words and words[0].startswith("*"):
        lead = len(shape) - (len(words) - 1)
        if lead < 0 or sizes.setdefault(words[0], shape[:lead]) != shape[:lead]:
            return False
        shape, words = shape[lead:], words[1:]
    if len(shape) != len(words):
        return False
    for size, word in zip(shape, words, strict=True):
        wanted = int(word) if word.isdigit() else sizes.setdefault(word, size)
        if size != wanted and word != "_":
            return False
    return True
