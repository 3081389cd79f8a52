"""What all nouns share: a frozen dataclass of tensors that can be mapped, moved, indexed and stacked as one."""

from __future__ import annotations

import dataclasses
import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from scene4d.check import check
from scene4d.errors import ShapeError


def shapes(**fields: str) -> Mapping[str, str]:
    """Shapes of fields, as words of `check`; "field.field" for one inside another."""
    return fields


class TensorStruct:
    """What the nouns share: `map`, `to`, `[index]`, `stack`, `replace`. Fields that hold no tensor pass through."""

    __dataclass_fields__: ClassVar[dict[str, dataclasses.Field[Any]]]  # every subclass is a dataclass

    SHAPES: ClassVar[Mapping[str, str]] = shapes()
    """What is checked: `shapes(...)`. The first one tells the batch axes; every value of a mapping has its shape."""

    def __post_init__(self) -> None:
        found = {name: (operator.attrgetter(name)(self), shape) for name, shape in self.SHAPES.items()}
        each = {f"{k}.{n}": (x, s) for k, (v, s) in found.items() if isinstance(v, Mapping) for n, x in v.items()}
        check(**{name: pair for name, pair in found.items() if not isinstance(pair[0], Mapping)}, **each)

    @property
    def batch_shape(self) -> tuple[int, ...]:
        """Sizes of the leading axes that `[index]` may touch."""
        name, shape = next(iter(self.SHAPES.items()), ("", ""))
        own = len(shape.split()) - 1  # axes beside *b
        return tuple(operator.attrgetter(name)(self).shape[: -own or None]) if shape.startswith("*") else ()

    def replace(self, **changes: Any) -> Self:
        """A copy with some fields changed (checked again)."""
        return dataclasses.replace(self, **changes)

    def map(self, fn: Callable[[Tensor], Tensor]) -> Self:
        """Apply `fn` to every tensor, inside dictionaries and nested nouns too."""
        return self.replace(**{f.name: _map(getattr(self, f.name), fn) for f in dataclasses.fields(self)})

    def tensors(self) -> list[Tensor]:
        """All tensors, inside dictionaries and nested structs too."""
        found: list[Tensor] = []

        def note(x: Tensor) -> Tensor:
            found.append(x)
            return x

        for f in dataclasses.fields(self):
            _map(getattr(self, f.name), note)
        return found

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
    def stack(cls, items: Sequence[Any], dim: int = 0) -> Self:
        """Stack equal-shaped items along a new batch axis; structs inside are stacked by their own `stack`."""
        each = lambda name: stack_all([getattr(item, name) for item in items], dim)
        return cls(**{f.name: each(f.name) for f in dataclasses.fields(cls)})

    @classmethod
    def cat(cls, items: Sequence[Self], dim: int = 0) -> Self:
        """Put items behind one another along a batch axis that they have."""
        return cat_all(list(items), dim)


def _map(value: Any, fn: Callable[[Tensor], Tensor]) -> Any:
    if isinstance(value, Tensor):
        return fn(value)
    if isinstance(value, TensorStruct):
        return value.map(fn)
    if isinstance(value, Mapping) and _holds_tensors(value):
        return {k: _map(v, fn) for k, v in value.items()}
    return value


def _holds_tensors(values: Mapping[Any, Any]) -> bool:
    return any(isinstance(v, Tensor | TensorStruct) for v in values.values())


def stack_all(items: Sequence[Any], dim: int) -> Any:
    """Stack tensors, structs or mappings of them; what holds no tensor is taken from the first."""
    first = items[0]
    if isinstance(first, Tensor):
        return torch.stack(list(items), dim)
    if isinstance(first, TensorStruct):
        return type(first).stack(items, dim)
    if isinstance(first, Mapping) and _holds_tensors(first):
        return {k: stack_all([i[k] for i in items], dim) for k in first}
    return first


def cat_all(items: list[Any], dim: int) -> Any:
    """Put tensors, structs or mappings of them behind one another along an axis that they have."""
    first = items[0]
    if isinstance(first, Tensor):
        return torch.cat(items, dim)
    if isinstance(first, TensorStruct):
        fields = dataclasses.fields(first)
        return type(first)(**{f.name: cat_all([getattr(i, f.name) for i in items], dim) for f in fields})
    if isinstance(first, Mapping) and _holds_tensors(first):
        return {k: cat_all([i[k] for i in items], dim) for k in first}
    return first
