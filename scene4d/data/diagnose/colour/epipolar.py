"""Lines on which a point of one picture must lie in another: by the calibration, and by the points themselves."""

from __future__ import annotations

import torch
from torch import Tensor

from scene4d.geometry.camera import invert_rigid

TRIALS = 600
SEED = 0
CLOSE = 1.5  # px from its line
MIN_MATCHES = 20
MIN_SHARE = 0.3  # of the matches must lie on the lines of one and the same motion
STANDING = 1e-6  # m: two views from one place have no such lines


def verified(matches: Tensor) -> Tensor:
    """Which matches [m] of [m 4] px agree on one motion, whatever the calibration says; none where too few do."""
    none = torch.zeros(len(matches), dtype=torch.bool)
    if len(matches) < MIN_MATCHES:
        return none
    middle, spread = matches.mean(0), matches.std(0).clamp_min(1e-6)
    points = (matches - middle) / spread
    generator = torch.Generator().manual_seed(SEED)
    chosen = torch.rand(TRIALS, len(matches), generator=generator).argsort(1)[:, :8]
    tried = _off_lines(_through(points[chosen]), points, spread=spread)
    best = (tried < CLOSE).sum(1).argmax()
    inliers = tried[best] < CLOSE
    for _ in range(2):  # once more through all that agree
        if int(inliers.sum()) >= 8:
            inliers = _off_lines(_through(points[inliers][None]), points, spread=spread)[0] < CLOSE
    return inliers if int(inliers.sum()) >= max(MIN_MATCHES, MIN_SHARE * len(matches)) else none


def epipolar_error(matches: Tensor, *, viewmats: Tensor, Ks: Tensor) -> Tensor:
    """How far, px, matches [m 4] lie from where two cameras (viewmats [2 4 4], Ks [2 3 3]) say, in either picture."""
    relative = (viewmats[1] @ invert_rigid(viewmats[0])).double()
    K = Ks.double()
    first, second = (_with_ones(matches[:, i : i + 2].double()) for i in (0, 2))
    rotation, shift = relative[:3, :3], relative[:3, 3]
    if float(shift.norm()) < STANDING:
        seen = first @ (K[1] @ rotation @ torch.linalg.inv(K[0])).T
        behind = seen[:, 2] <= 0
        off = (seen[:, :2] / seen[:, 2:].clamp_min(1e-9) - second[:, :2]).norm(dim=-1)
        return torch.where(behind, torch.inf, off).float()
    x, y, z = shift.tolist()
    cross = torch.tensor([[0, -z, y], [z, 0, -x], [-y, x, 0]], dtype=torch.float64)
    F = torch.linalg.inv(K[1]).T @ cross @ rotation @ torch.linalg.inv(K[0])
    return _sampson(F[None], first=first, second=second)[0].float()


def _through(points: Tensor) -> Tensor:
    """The fundamental matrices [*b 3 3] that points [*b m 4] fit best."""
    x, y, u, v = points.double().unbind(-1)
    one = torch.ones_like(x)
    rows = torch.stack([u * x, u * y, u, v * x, v * y, v, x, y, one], -1)
    _, vectors = torch.linalg.eigh(rows.transpose(-1, -2) @ rows)
    F = vectors[..., 0].unflatten(-1, (3, 3))
    U, S, V = torch.linalg.svd(F)
    return (U[..., :2] * S[..., None, :2]) @ V[..., :2, :]


def _off_lines(F: Tensor, points: Tensor, *, spread: Tensor) -> Tensor:
    """Distances [b m] of standardised points [m 4] from the lines of F [b 3 3], px."""
    points = points.double()
    # In standardised units directions count differently: undo the spread in F instead.
    first, second = (torch.diag(torch.cat([1 / spread[i : i + 2], torch.ones(1)])).double() for i in (0, 2))
    places = [_with_ones(points[:, i : i + 2] * spread[i : i + 2]) for i in (0, 2)]
    return _sampson(second @ F @ first, first=places[0], second=places[1])


def _sampson(F: Tensor, *, first: Tensor, second: Tensor) -> Tensor:
    """Distances [b m] px of points [m 3] from the lines of F [b 3 3], in both pictures together."""
    lines, back = first @ F.transpose(-1, -2), second @ F
    off = (lines * second).sum(-1).abs()
    return off / (lines[..., :2].square().sum(-1) + back[..., :2].square().sum(-1)).clamp_min(1e-24).sqrt()


def _with_ones(places: Tensor) -> Tensor:
    return torch.cat([places, torch.ones_like(places[:, :1])], -1)
