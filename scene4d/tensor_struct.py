"""What all nouns share: a frozen dataclass of tensors that can be mapped, moved, indexed and stacked as one thing."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Self

import torch
from torch import Tensor

from scene4d.errors import ShapeError


class TensorStruct:
    """What the nouns share: `map`, `to`, `[index]`, `stack`, `replace`. Fields that hold no tensor pass through."""

    @property
    def batch_shape(self) -> tuple[int, ...]:
        """Sizes of the leading axes that `[index]` may touch."""
        raise NotImplementedError

    def replace(self, **changes: Any) -> Self:
        """A copy with some fields changed (checked again)."""
        return dataclasses.replace(self, **changes)  # type: ignore[type-var]

    def map(self, fn: Callable[[Tensor], Tensor]) -> Self:
        """Apply `fn` to every tensor, inside dictionaries and nested nouns too."""
        return self.replace(**{f.name: _map(getattr(self, f.name), fn) for f in dataclasses.fields(self)})  # type: ignore[arg-type]

    def to(self, *args: Any, **kwargs: Any) -> Self:
        """Move tensors to a device, or floating ones to a dtype, as `Tensor.to`."""

        def move(x: Tensor) -> Tensor:
            wants_dtype = any(isinstance(a, torch.dtype) for a in args) or "dtype" in kwargs
            return x if wants_dtype and not x.is_floating_point() else x.to(*args, **kwargs)

        return self.map(move)

    def detach(self) -> Self:
        """A copy cut from the autograd graph."""
        return self.map(Tensor.detach)

    def __getitem__(self, index: Any) -> Self:
        """Index the leading (batch) axes of every tensor."""
        used = len(index) if isinstance(index, tuple) else 1
        if Ellipsis in (index if isinstance(index, tuple) else (index,)) or used > len(self.batch_shape):
            raise ShapeError(
                "cannot be indexed that deep",
                field=type(self).__name__,
                found=index,
                expected=f"at most {len(self.batch_shape)} indices",
            )
        return self.map(lambda x: x[index])

    @classmethod
    def stack(cls, items: Sequence[Self], dim: int = 0) -> Self:
        """Stack equal-shaped items along a new batch axis."""
        return stack_all(list(items), dim)

    @classmethod
    def cat(cls, items: Sequence[Self], dim: int = 0) -> Self:
        """Put items behind one another along a batch axis that they have."""
        return joined_all(list(items), lambda tensors: torch.cat(tensors, dim))


def _map(value: Any, fn: Callable[[Tensor], Tensor]) -> Any:
    if isinstance(value, Tensor):
        return fn(value)
    if isinstance(value, TensorStruct):
        return value.map(fn)
    if isinstance(value, Mapping) and any(isinstance(v, Tensor | TensorStruct) for v in value.values()):
        return {k: _map(v, fn) for k, v in value.items()}
    return value


def stack_all(items: list[Any], dim: int) -> Any:
    """Stack equal-shaped tensors, nouns or dictionaries of them; what holds no tensor is taken from the first."""
    return joined_all(items, lambda tensors: torch.stack(tensors, dim))


def joined_all(items: list[Any], join: Callable[[list[Tensor]], Tensor]) -> Any:
    """Join tensors, nouns or dictionaries of them, tensor by tensor."""
    first = items[0]
    if isinstance(first, Tensor):
        return join(items)
    if isinstance(first, TensorStruct):
        values = {f.name: joined_all([getattr(i, f.name) for i in items], join) for f in dataclasses.fields(first)}  # type: ignore[arg-type]
        return type(first)(**values)
    if isinstance(first, Mapping) and any(isinstance(v, Tensor | TensorStruct) for v in first.values()):
        return {k: joined_all([i[k] for i in items], join) for k in first}
    return first
