"""The native mathematics in double: every hand-written gradient against numeric differentiation."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
from pathlib import Path

import pytest
import torch

from scene4d.geometry.sh import sh_basis

HERE = Path(__file__).parent
NUM_INPUTS, NUM_OUTPUTS = 22, 7
EPS2D = 0.3


@pytest.fixture(scope="module")
def native(tmp_path_factory):
    """The templates of cuda_ext/math, compiled for double."""
    compiler = shutil.which("c++") or shutil.which("g++")
    if compiler is None:
        pytest.skip("no C++ compiler")
    library = tmp_path_factory.mktemp("math") / "math_check.so"
    command = [compiler, "-std=c++17", "-O1", "-shared", "-fPIC", f"-I{HERE.parents[1] / 'cuda_ext'}"]
    subprocess.run([*command, str(HERE / "math_check.cpp"), "-o", str(library)], check=True)
    return ctypes.CDLL(str(library))


def address(x: torch.Tensor) -> ctypes.c_void_p:
    assert x.dtype == torch.float64 and x.is_contiguous()
    return ctypes.c_void_p(x.data_ptr())


def splat_function(native, K: torch.Tensor):
    """x [22] -> (u, v, depth, conic a b c, anti-aliasing factor) [7] with the hand-written gradient."""

    class Splat(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            x = x.detach().contiguous()
            ctx.save_for_backward(x)
            out = torch.empty(NUM_OUTPUTS, dtype=torch.float64)
            native.splat_forward(address(x), address(K), ctypes.c_float(EPS2D), address(out))
            return out

        @staticmethod
        def backward(ctx, v_out):
            (x,) = ctx.saved_tensors
            v_out, v_x = v_out.contiguous(), torch.empty(NUM_INPUTS, dtype=torch.float64)
            native.splat_backward(address(x), address(K), ctypes.c_float(EPS2D), address(v_out), address(v_x))
            return v_x

    return Splat.apply


def some_input(seed: int, *, scales: tuple[float, float, float] = (0.05, 0.02, 0.08), aside: float = 0.2):
    random = torch.Generator().manual_seed(seed)
    mean = torch.tensor([aside, 0.1, 2.0]) + 0.1 * torch.randn(3, generator=random)
    quat = torch.randn(4, generator=random)
    rotation = torch.linalg.qr(torch.eye(3) + 0.2 * torch.randn(3, 3, generator=random))[0]
    rotation = rotation * torch.sign(rotation.diagonal())[None]
    parts = [mean, quat, torch.tensor(scales), rotation.flatten(), 0.1 * torch.randn(3, generator=random)]
    return torch.cat(parts).double().requires_grad_()


INTRINSICS = torch.tensor([60.0, 55.0, 0.7, 31.0, 23.0, 0.6, 0.5], dtype=torch.float64)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(
    ("scales", "aside"),
    [((0.05, 0.02, 0.08), 0.2), ((0.3, 0.3, 1e-4), 0.2), ((0.5, 1e-3, 1e-3), 0.2), ((0.05, 0.02, 0.08), 1.9)],
    ids=["plain", "flat", "needle", "outside the clamped field of view"],
)
def test_gradient_of_a_splat(native, seed, scales, aside):
    x = some_input(seed, scales=scales, aside=aside)
    assert torch.autograd.gradcheck(splat_function(native, INTRINSICS), (x,), eps=1e-6, atol=1e-5, rtol=1e-4)


def test_gradient_of_the_antialiasing_factor_is_finite_for_a_splat_without_thickness(native):
    x = some_input(0, scales=(0.0, 0.05, 0.0))
    splat_function(native, INTRINSICS)(x)[6].backward()
    assert bool(x.grad.isfinite().all())


@pytest.mark.parametrize("degree", [0, 1, 2, 3])
def test_bases_are_those_of_python(native, degree):
    direction = torch.nn.functional.normalize(torch.randn(3, dtype=torch.float64), dim=-1)
    out = torch.empty((degree + 1) ** 2, dtype=torch.float64)
    native.sh_bases(address(direction), len(out), address(out))
    assert torch.allclose(out, sh_basis(direction, degree), atol=1e-12)
