"""The native kernels as torch ops: `rasterize` (CPU; forward, backward, shapes for the compiler).

Memory scheme on the CPU: the kernels size their own working memory (tile lists are counted before they are written), so
every output has a shape known from the inputs and nothing overflows. A forward call that will be differentiated has a
token, under which the native side keeps its tile lists, within bounds; backward uses them if they are still there and
makes them again, to the same bits, if not. They are given back when the graph that holds the token is.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType
from typing import Any, NamedTuple

import torch
from torch import Tensor

from scene4d.check import check
from scene4d.errors import EnvError, GaussianError, ResourceError, ShapeError

INTERFACE = 3
MAX_FLOATS_PER_SET = 2**31 - 1
NUM_BASES = (1, 4, 9, 16)
INSTRUCTION_SETS = ("baseline", "avx2", "avx512")

_STATUS_OUT_OF_MEMORY = 1
_STATUS_BAD_INSTRUCTION_SET = 2
_STATUS_TOO_MANY_PAIRS = 3

_instruction_set = -1


def native_module() -> ModuleType:
    """The compiled module.

    Raises:
        EnvError: when it was not built, or belongs to another version of scene4d.
    """
    name, fix = "scene4d.native._ext", "build it with `pip install .` in the scene4d folder (needs a C++ compiler)"
    try:
        from scene4d.native import _ext
    except ImportError as error:
        raise EnvError("the native module is missing", field=name, found=str(error), fix=fix) from error
    if (found := _ext.interface) != INTERFACE:
        problem = "the native module is of another version"
        raise EnvError(problem, field=name, found=found, expected=INTERFACE, fix=fix)
    return _ext


def force_instruction_set(name: str | None) -> None:
    """Use "baseline", "avx2" or "avx512" kernels instead of this machine's best (None); for tests and benchmarks.

    Raises:
        EnvError: when this machine or build does not have it.
    """
    global _instruction_set
    index = -1 if name is None else INSTRUCTION_SETS.index(name)
    best = native_module().best_instruction_set()
    if index > best:
        raise EnvError("no such instruction set here", field="name", found=name, expected=INSTRUCTION_SETS[: best + 1])
    _instruction_set = index


@dataclass(frozen=True)
class RasterSettings:
    """What a render needs besides tensors: image size in pixels, low-pass variance in pixels^2, depth range in m.

    `antialiased` takes from the opacity what the low-pass adds in area (Mip-Splatting); `median` and `radii` ask for
    those outputs.
    """

    width: int
    height: int
    eps2d: float = 0.3
    near: float = 0.01
    far: float = 1e10
    antialiased: bool = False
    median: bool = False
    radii: bool = False


class Raster(NamedTuple):
    """What `rasterize` draws; `median` and `radii` have no elements unless they were asked for, and no gradient."""

    rgb: Tensor  # [b v h w 3]
    depth: Tensor  # [b v h w] m, expected
    alpha: Tensor  # [b v h w]
    extras: Tensor  # [b v h w e]
    median: Tensor  # [b v h w] m, depth of the splat that takes transmittance to 1/2; 0 where none does
    radii: Tensor  # [b v n 2] pixels, half extents of {alpha >= 1/255}; 0 = not drawn


def rasterize(
    gaussians: dict[str, Tensor],
    cameras: dict[str, Tensor],
    *,
    settings: RasterSettings,
    absgrads: Tensor | None = None,
) -> Raster:
    """Draw b sets of Gaussians, each from v cameras, on the CPU in float32.

    Args:
        gaussians: means [b n 3], quats [b n 4], scales [b n 3], opacities [b n], sh [b n k 3], extras [b n e],
            ids [b n] int64 (negative = empty slot).
        cameras: viewmats [b v 4 4], Ks [b v 3 3], background [b v 3] or None.
        absgrads: [b v n 2], read by nobody; its gradient is the sum over pixels of |dL/d(image position in pixels)|.
    Returns:
        Raster, differentiable to everything but ids and Ks; what it computes is scene4d/render/reference.py.
    Raises:
        ShapeError, GaussianError: naming the tensor that has the wrong shape, dtype or device.
        EnvError: when the native module is missing.
    Source: Kerbl et al., 3D Gaussian Splatting, 2023; backward front to back with one running scalar a pixel; absgrads:
        Ye et al., AbsGS, 2024.
    """
    tensors, s = [{**gaussians, **cameras, "absgrads": absgrads}[name] for name in _TENSORS], settings
    options = (s.width, s.height, s.eps2d, s.near, s.far, s.antialiased, s.median, s.radii)
    return Raster(*torch.ops.scene4d.rasterize(*tensors, *options, _token(tensors)))


_tokens = itertools.count(1)


def _token(tensors: list[Tensor | None]) -> int:
    """A new name for a call that will be differentiated, 0 for others; a compiled graph would repeat it, so 0 there."""
    if torch.compiler.is_compiling() or not torch.is_grad_enabled():
        return 0
    return next(_tokens) if any(x is not None and x.requires_grad for x in tensors) else 0


_INPUTS = (
    "Tensor means, Tensor quats, Tensor scales, Tensor opacities, Tensor sh, Tensor extras, Tensor ids, "
    "Tensor viewmats, Tensor Ks, Tensor? background, Tensor? absgrads, SymInt width, SymInt height, "
    "float eps2d, float near, float far, bool antialiased, bool median, bool radii, int token"
)
_IMAGES = "Tensor rgb, Tensor depth, Tensor alpha, Tensor images"
_V_IMAGES = "Tensor? v_rgb, Tensor? v_depth, Tensor? v_alpha, Tensor? v_images"
_LIBRARY = torch.library.Library("scene4d", "DEF")
_LIBRARY.define(f"rasterize({_INPUTS}) -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)")
_LIBRARY.define(f"rasterize_backward({_INPUTS}, {_IMAGES}, {_V_IMAGES}, bool[] wanted) -> Tensor[]")

# Order of the tensors that the op takes (the native side knows all but the last), and of the gradients it gives.
_TENSORS = (
    "means", "quats", "scales", "opacities", "sh", "extras", "ids", "viewmats", "Ks", "background", "absgrads",
)  # fmt: skip
_GRADS = ("means", "quats", "scales", "opacities", "sh", "extras", "viewmats", "absgrads")
_NUM = len(_TENSORS)


def _checked_shape(tensors: dict[str, Any], *, width: int, height: int) -> tuple[int, ...]:
    """(b, v, n, k, e, width, height), once every tensor is what the kernels expect."""
    specs = dict(
        means="b n 3", quats="b n 4", scales="b n 3", opacities="b n", sh="b n k 3", extras="b n e", ids="b n",
        viewmats="b v 4 4", Ks="b v 3 3", background="b v 3", absgrads="b v n 2",
    )  # fmt: skip
    check(**{name: (tensors[name], spec) for name, spec in specs.items()})
    shape = _shape(tensors, width=width, height=height)
    num, bases, extras = shape[2:5]
    device = tensors["means"].device
    for name, x in tensors.items():
        dtype = torch.int64 if name == "ids" else torch.float32
        if x is not None and (x.dtype != dtype or x.device != device):
            found, expected = f"{x.dtype} on {x.device}", f"{dtype} on {device}"
            raise GaussianError("is of the wrong kind for the rasterizer", field=name, found=found, expected=expected)
    if bases not in NUM_BASES:
        raise ShapeError("is no whole SH degree", field="sh", found=f"k={bases}", expected=NUM_BASES)
    if width < 1 or height < 1:
        raise ShapeError("image has no pixels", field="cameras", found=(width, height), expected="at least 1 x 1")
    if num * 3 * max(bases, extras) > MAX_FLOATS_PER_SET:
        raise ResourceError("too many Gaussians in one set", field="means", found=num)
    return shape


def _shape(tensors: dict[str, Any], *, width: int, height: int) -> tuple[int, ...]:
    b, n, _ = tensors["means"].shape
    return (b, tensors["viewmats"].shape[1], n, tensors["sh"].shape[2], tensors["extras"].shape[2], width, height)


def _address(x: Tensor | None) -> int:
    return 0 if x is None or x.numel() == 0 else x.data_ptr()


def _addresses(tensors, length: int) -> tuple[int, ...]:
    """Addresses of up to `length` tensors, 0 for those that are not there."""
    given = tuple(map(_address, tensors))
    return given + (0,) * (length - len(given))


def _image_addresses(tensors) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Addresses of four images, and of the gradients of each."""
    return _addresses(tensors[:4], 6), _addresses(tensors[4:], 6)


def _contiguous(tensors: tuple[Any, ...]) -> tuple[Any, ...]:
    """Dense copies where needed; the caller keeps them alive while their addresses are in use."""
    return tuple(None if x is None else x.contiguous() for x in tensors)


def _raise_for(status: int) -> None:
    if status == _STATUS_OUT_OF_MEMORY:
        raise ResourceError("no memory left to render", field="rasterize", fix="draw fewer views at once")
    if status == _STATUS_TOO_MANY_PAIRS:
        raise ResourceError(
            "Gaussians cover too much of the images", field="rasterize",
            found=f"more than {native_module().max_pairs} pairs of a Gaussian and a tile",
            expected="less: with gradients a pair takes about 64 bytes",
            fix="draw fewer views at once, or leave out Gaussians close to the camera (raise `near`)",
        )  # fmt: skip
    if status == _STATUS_BAD_INSTRUCTION_SET:
        raise EnvError("no such instruction set here", field="rasterize")


def _checked_inputs(args) -> tuple[tuple[Any, ...], tuple[int, ...], tuple]:
    """Dense inputs, their sizes, and (floats, integers, token) for the native side."""
    inputs = _contiguous(args[:_NUM])
    width, height, eps2d, near, far, antialiased, _, _, token = args[_NUM : _NUM + 9]
    shape = _checked_shape(dict(zip(_TENSORS, inputs, strict=True)), width=width, height=height)
    integers = (int(antialiased), torch.get_num_threads(), _instruction_set)
    return inputs, shape, ((eps2d, near, far), integers, token)


def _rasterize_cpu(*args):
    inputs, shape, (floats, integers, token) = _checked_inputs(args)
    images = _empty_images(args[0], shape, median=args[_NUM + 6], radii=args[_NUM + 7])
    addresses = _addresses(inputs[:-1], 10), _addresses(images, 6)
    _raise_for(native_module().rasterize(shape, floats, integers, *addresses, token))
    return images


def _empty_images(means: Tensor, shape: tuple[int, ...], *, median: bool, radii: bool) -> tuple[Tensor, ...]:
    b, v, n, _, e, width, height = shape
    pixels = (b, v, height, width)
    sizes = ((*pixels, 3), pixels, pixels, (*pixels, e), pixels if median else (0,), (b, v, n, 2) if radii else (0,))
    return tuple(means.new_empty(size) for size in sizes)


def _rasterize_fake(*args):
    width, height = args[_NUM : _NUM + 2]
    shape = _shape(dict(zip(_TENSORS, args[:_NUM], strict=True)), width=width, height=height)
    return _empty_images(args[0], shape, median=args[_NUM + 6], radii=args[_NUM + 7])


def _rasterize_backward_cpu(*args):
    inputs, shape, (floats, integers, token) = _checked_inputs(args)
    (*tensors, wanted) = args[_NUM + 9 :]
    tensors = _contiguous(tuple(tensors))
    grads = _empty_grads(inputs, wanted)
    addresses = _addresses(inputs[:-1], 10), *_image_addresses(tensors), _addresses(grads, 8)
    _raise_for(native_module().rasterize_backward(shape, floats, integers, *addresses, token))
    return grads


def _empty_grads(inputs, wanted) -> list[Tensor]:
    """One tensor a gradient, in the order of _GRADS; [0] where it is not wanted."""
    like = dict(zip(_TENSORS, inputs, strict=True))
    shapes = [like[name].shape if want else (0,) for name, want in zip(_GRADS, wanted, strict=True)]
    return [inputs[0].new_empty(shape) for shape in shapes]


def _rasterize_backward_fake(*args):
    return _empty_grads(args[:_NUM], args[-1])


# Who keeps lists under tokens, by kind of device; native/cuda.py adds its own.
_RELEASE: dict[str, Callable[[int], None]] = {"cpu": lambda token: native_module().release(token)}


class _Kept:
    """Gives back what is kept under a token once the graph that may ask for it is gone."""

    def __init__(self, token: int, device: torch.device) -> None:
        self.token = token
        self.release = _RELEASE.get(device.type)

    def __del__(self) -> None:
        if self.release is not None:
            self.release(self.token)


def _setup_context(ctx, inputs, output) -> None:
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(*inputs[:_NUM], *output[:4])
    ctx.mark_non_differentiable(*output[4:])
    ctx.settings = inputs[_NUM:]
    if inputs[-1]:
        ctx.kept = _Kept(inputs[-1], inputs[0].device)


def _backward(ctx, *v_images):
    inputs, images = ctx.saved_tensors[:_NUM], ctx.saved_tensors[_NUM:]
    wanted = [ctx.needs_input_grad[_TENSORS.index(name)] for name in _GRADS]
    grads = torch.ops.scene4d.rasterize_backward(*inputs, *ctx.settings, *images, *v_images[:4], wanted)
    found = {name: g for name, g, want in zip(_GRADS, grads, wanted, strict=True) if want}
    if ctx.needs_input_grad[_TENSORS.index("background")] and v_images[0] is not None:
        found["background"] = (v_images[0] * (1 - images[2])[..., None]).sum((-3, -2))
    return (*(found.get(name) for name in _TENSORS), *(None for _ in ctx.settings))


_LIBRARY.impl("rasterize", _rasterize_cpu, "CPU")
_LIBRARY.impl("rasterize_backward", _rasterize_backward_cpu, "CPU")
torch.library.register_fake("scene4d::rasterize", _rasterize_fake, lib=_LIBRARY)
torch.library.register_fake("scene4d::rasterize_backward", _rasterize_backward_fake, lib=_LIBRARY)
torch.library.register_autograd("scene4d::rasterize", _backward, setup_context=_setup_context, lib=_LIBRARY)
