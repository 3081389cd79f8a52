"""The native kernels as torch ops: `rasterize` (CPU; forward, backward, shapes for the compiler).

Memory scheme on the CPU: the kernels size their own working memory (tile lists are counted before they are written)
and keep none of it between forward and backward, which makes the lists again. So every output has a shape known
from the inputs, nothing overflows and nothing has to be run twice.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import ModuleType

import torch
from torch import Tensor

from scene4d.check import check
from scene4d.errors import EnvError, GaussianError, ResourceError, ShapeError

INTERFACE = 1
MAX_FLOATS_PER_SET = 2**31 - 1
NUM_BASES = (1, 4, 9, 16)
INSTRUCTION_SETS = ("baseline", "avx2", "avx512")

_STATUS_OUT_OF_MEMORY = 1
_STATUS_BAD_INSTRUCTION_SET = 2

_instruction_set = -1


def native_module() -> ModuleType:
    """The compiled module.

    Raises:
        EnvError: when it was not built, or belongs to another version of scene4d.
    """
    fix = "build it with `pip install .` in the scene4d folder (needs a C++ compiler)"
    try:
        from scene4d.native import _ext
    except ImportError as error:
        raise EnvError(
            "the native module is missing", field="scene4d.native._ext", found=str(error), fix=fix
        ) from error
    if _ext.interface != INTERFACE:
        raise EnvError(
            "the native module is of another version", field="scene4d.native._ext", found=_ext.interface,
            expected=INTERFACE, fix=fix,
        )  # fmt: skip
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
    """What a render needs besides tensors: image size in pixels, low-pass variance in pixels^2, depth range in m."""

    width: int
    height: int
    eps2d: float = 0.3
    near: float = 0.01
    far: float = 1e10


def rasterize(
    gaussians: dict[str, Tensor], cameras: dict[str, Tensor], *, settings: RasterSettings
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Draw b sets of Gaussians, each from v cameras, on the CPU in float32.

    Args:
        gaussians: means [b n 3], quats [b n 4], scales [b n 3], opacities [b n], sh [b n k 3], extras [b n e],
            ids [b n] int64 (negative = empty slot).
        cameras: viewmats [b v 4 4], Ks [b v 3 3], background [b v 3] or None.
    Returns:
        rgb [b v h w 3], depth [b v h w] (expected), alpha [b v h w], extras [b v h w e]. Differentiable to everything
        but ids and Ks; what it computes is scene4d/render/reference.py.
    Raises:
        ShapeError, GaussianError: naming the tensor that has the wrong shape, dtype or device.
        EnvError: when the native module is missing.
    Source: Kerbl et al., 3D Gaussian Splatting, 2023; backward front to back with one running scalar a pixel.
    """
    g, c = gaussians, cameras
    return torch.ops.scene4d.rasterize(
        g["means"], g["quats"], g["scales"], g["opacities"], g["sh"], g["extras"], g["ids"],
        c["viewmats"], c["Ks"], c["background"],
        settings.width, settings.height, settings.eps2d, settings.near, settings.far,
    )  # fmt: skip


_INPUTS = (
    "Tensor means, Tensor quats, Tensor scales, Tensor opacities, Tensor sh, Tensor extras, Tensor ids, "
    "Tensor viewmats, Tensor Ks, Tensor? background, SymInt width, SymInt height, float eps2d, float near, float far"
)
_LIBRARY = torch.library.Library("scene4d", "DEF")
_LIBRARY.define(f"rasterize({_INPUTS}) -> (Tensor, Tensor, Tensor, Tensor)")
_LIBRARY.define(
    f"rasterize_backward({_INPUTS}, Tensor rgb, Tensor depth, Tensor alpha, Tensor images, Tensor? v_rgb, "
    "Tensor? v_depth, Tensor? v_alpha, Tensor? v_images, bool[] wanted) -> Tensor[]"
)

# Order of the tensors that the native side takes, and of the gradients it gives.
_TENSORS = ("means", "quats", "scales", "opacities", "sh", "extras", "ids", "viewmats", "Ks", "background")
_GRADS = ("means", "quats", "scales", "opacities", "sh", "extras", "viewmats")


def _checked_shape(tensors: dict[str, Tensor | None], width: int, height: int) -> tuple[int, ...]:
    """(b, v, n, k, e, width, height), once every tensor is what the kernels expect."""
    specs = dict(
        means="b n 3", quats="b n 4", scales="b n 3", opacities="b n", sh="b n k 3", extras="b n e", ids="b n",
        viewmats="b v 4 4", Ks="b v 3 3", background="b v 3",
    )  # fmt: skip
    sizes = check(**{name: (tensors[name], spec) for name, spec in specs.items()})
    for name, x in tensors.items():
        dtype = torch.int64 if name == "ids" else torch.float32
        if x is not None and (x.dtype != dtype or x.device.type != "cpu"):
            found = f"{x.dtype} on {x.device.type}"
            raise GaussianError("has the wrong type for the native rasterizer", field=name, found=found, expected=dtype)
    if sizes["k"] not in NUM_BASES:
        raise ShapeError("is no whole SH degree", field="sh", found=f"k={sizes['k']}", expected=NUM_BASES)
    if width < 1 or height < 1:
        raise ShapeError("image has no pixels", field="cameras", found=(width, height), expected="at least 1 x 1")
    if sizes["n"] * 3 * max(sizes["k"], sizes["e"]) > MAX_FLOATS_PER_SET:
        raise ResourceError("too many Gaussians in one set", field="means", found=sizes["n"])
    return (*(sizes[name] for name in "bvnke"), width, height)


def _address(x: Tensor | None) -> int:
    return 0 if x is None or x.numel() == 0 else x.data_ptr()


def _contiguous(tensors: tuple[Tensor | None, ...]) -> tuple[Tensor | None, ...]:
    """Dense float32 copies where needed; the caller keeps them alive while their addresses are in use."""
    return tuple(None if x is None else x.contiguous() for x in tensors)


def _raise_for(status: int) -> None:
    if status == _STATUS_OUT_OF_MEMORY:
        raise ResourceError("no memory left to render", field="rasterize", fix="draw fewer views at once")
    if status == _STATUS_BAD_INSTRUCTION_SET:
        raise EnvError("no such instruction set here", field="rasterize")


def _rasterize_cpu(*args):
    *tensors, width, height, eps2d, near, far = args
    module = native_module()
    tensors = _contiguous(tuple(tensors))
    shape = _checked_shape(dict(zip(_TENSORS, tensors, strict=True)), width, height)
    images = _empty_images(tensors[0], shape)
    status = module.rasterize(
        shape, (eps2d, near, far), torch.get_num_threads(), _instruction_set,
        tuple(map(_address, tensors)), tuple(map(_address, images)),
    )  # fmt: skip
    _raise_for(status)
    return images


def _empty_images(means: Tensor, shape: tuple[int, ...]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    b, v, _, _, e, width, height = shape
    pixels = (b, v, height, width)
    return means.new_empty(*pixels, 3), means.new_empty(pixels), means.new_empty(pixels), means.new_empty(*pixels, e)


def _rasterize_fake(*args):
    means, sh, extras, viewmats, width, height = args[0], args[4], args[5], args[7], args[10], args[11]
    b, n, _ = means.shape
    return _empty_images(means, (b, viewmats.shape[1], n, sh.shape[2], extras.shape[2], width, height))


def _rasterize_backward_cpu(*args):
    inputs, (width, height, *floats), images = _contiguous(args[:10]), args[10:15], _contiguous(args[15:19])
    v_images, wanted = _contiguous(args[19:23]), args[23]
    shape = _checked_shape(dict(zip(_TENSORS, inputs, strict=True)), width, height)
    grads = _empty_grads(inputs, wanted)
    status = native_module().rasterize_backward(
        shape, tuple(floats), torch.get_num_threads(), _instruction_set,
        tuple(map(_address, inputs)), tuple(map(_address, images)),
        tuple(map(_address, v_images)), tuple(map(_address, grads)),
    )  # fmt: skip
    _raise_for(status)
    return grads


def _empty_grads(inputs, wanted) -> list[Tensor]:
    """One tensor a gradient, in the order of _GRADS; [0] where it is not wanted."""
    like = dict(zip(_TENSORS, inputs, strict=True))
    chosen = zip(_GRADS, wanted, strict=True)
    return [
        torch.empty(like[name].shape if want else 0, dtype=torch.float32, device=like[name].device)
        for name, want in chosen
    ]


def _rasterize_backward_fake(*args):
    return _empty_grads(args[:10], args[23])


def _setup_context(ctx, inputs, output) -> None:
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(*inputs[:10], *output)
    ctx.settings = inputs[10:]


def _backward(ctx, *v_images):
    saved = ctx.saved_tensors
    inputs, (rgb, depth, alpha, images) = saved[:10], saved[10:]
    wanted = [ctx.needs_input_grad[_TENSORS.index(name)] for name in _GRADS]
    grads = torch.ops.scene4d.rasterize_backward(*inputs, *ctx.settings, rgb, depth, alpha, images, *v_images, wanted)
    found = {name: g for name, g, want in zip(_GRADS, grads, wanted, strict=True) if want}
    if ctx.needs_input_grad[_TENSORS.index("background")] and v_images[0] is not None:
        found["background"] = (v_images[0] * (1 - alpha)[..., None]).sum((-3, -2))
    return (*(found.get(name) for name in _TENSORS), None, None, None, None, None)


_LIBRARY.impl("rasterize", _rasterize_cpu, "CPU")
_LIBRARY.impl("rasterize_backward", _rasterize_backward_cpu, "CPU")
torch.library.register_fake("scene4d::rasterize", _rasterize_fake, lib=_LIBRARY)
torch.library.register_fake("scene4d::rasterize_backward", _rasterize_backward_fake, lib=_LIBRARY)
torch.library.register_autograd("scene4d::rasterize", _backward, setup_context=_setup_context, lib=_LIBRARY)
