import pytest
import torch

from scene4d.geometry.rotation import matrix_from_quat, normalize_quat
from scene4d.geometry.sh import rgb_from_sh, rotate_sh, sh_basis, sh_from_rgb


def directions(count: int, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.nn.functional.normalize(torch.randn(count, 3, dtype=dtype), dim=-1)


@pytest.mark.parametrize("degree", [0, 1, 2, 3])
def test_bases_are_orthonormal_on_the_sphere(degree):
    # Gauss-Legendre in z, even steps in azimuth: exact for these polynomials.
    import numpy as np

    z, weights = np.polynomial.legendre.leggauss(8)
    azimuth = torch.arange(16, dtype=torch.float64) * (2 * torch.pi / 16)
    z, weights = torch.from_numpy(z)[:, None].expand(8, 16), torch.from_numpy(weights)[:, None].expand(8, 16)
    ring = (1 - z**2).sqrt()
    points = torch.stack([ring * azimuth.cos(), ring * azimuth.sin(), z], -1)
    basis = sh_basis(points, degree).reshape(-1, (degree + 1) ** 2)
    gram = basis.T @ (basis * (weights * (2 * torch.pi / 16)).reshape(-1, 1))
    torch.testing.assert_close(gram, torch.eye(len(gram), dtype=torch.float64), atol=1e-12, rtol=0)


@pytest.mark.parametrize("num_bases", [1, 4, 9, 16])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_rotated_field_looks_the_same_from_rotated_directions(num_bases, dtype):
    sh = torch.randn(20, num_bases, 3, dtype=dtype)
    quats = normalize_quat(torch.randn(20, 4, dtype=dtype))
    seen_from = directions(30, dtype)
    turned = torch.einsum("nij,sj->nsi", matrix_from_quat(quats), seen_from)
    degree = int(num_bases**0.5) - 1
    before = sh_basis(seen_from, degree) @ sh
    after = sh_basis(turned, degree) @ rotate_sh(sh, quats)
    torch.testing.assert_close(after, before, atol=1e-5 if dtype == torch.float32 else 1e-12, rtol=0)


def test_colour_round_trip():
    rgb = torch.rand(7, 3)
    torch.testing.assert_close(rgb_from_sh(sh_from_rgb(rgb)), rgb)
