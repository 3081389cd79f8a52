"""Does a forecast know how wrong it is? Its variance against the errors of visible moving rows."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from torch import Tensor

from scene4d.errors import ShapeError
from scene4d.eval.forecast.forecast_table import mean_of_numbers
from scene4d.eval.forecast.ground_truth import VisibleRows
from scene4d.gaussians.edit import by_id
from scene4d.geometry.skinning import skinned_variance
from scene4d.models.gaussian_flow.motion.confidence import FLOOR_M, SIGMAS_90
from scene4d.scene import Scene4D
from scene4d.types import Episode


def point_variance(scene: Scene4D, step: int, *, ids: Tensor) -> Tensor:
    """Variance [r 3] m^2 of where the rows with these ids [r] are at `scene.times[step]`, along x, y and z.

    A row that is not in the scene, or rests, has variance 0.

    Raises:
        ShapeError: the scene has no variance.
    """
    motion = scene.motion
    if motion.log_var is None:
        raise ShapeError("has no variance", field="motion.log_var", found=None, expected="[t m 6]")
    rest, index, weights, log_var = scene.base.means, motion.skin_index, motion.skin_weights, motion.log_var[step]
    variance = skinned_variance(rest, motion.anchors, log_var=log_var, skin_index=index, skin_weights=weights)
    return by_id(variance, scene.base.ids, wanted=ids)[0]


@dataclass
class Calibration:
    """Errors and variances of displacements, window by window, {steps ahead: [[p 3], ...]}."""

    squares: dict[int, list[Tensor]] = field(default_factory=dict)
    variances: dict[int, list[Tensor]] = field(default_factory=dict)

    def add(
        self,
        scene: Scene4D,
        rows: VisibleRows,
        *,
        episode: Episode,
        start: int,
        horizons: Sequence[int],
        moving_m: float = 0.005,
    ) -> None:
        """Take a window's forecast: the visible rows that truly move by each horizon."""
        for horizon in horizons:
            truth = rows.true_displacement(episode, start=start, stop=start + horizon)
            moving = truth.norm(dim=-1) > moving_m
            if not bool(moving.any()):
                continue
            error = rows.predicted_displacement(scene, horizon) - truth
            variance = point_variance(scene, horizon, ids=rows.ids)
            self.squares.setdefault(horizon, []).append(error[moving].square())
            self.variances.setdefault(horizon, []).append(variance[moving] + FLOOR_M**2)

    def report(self) -> dict[str, dict[str, float]]:
        """{"1": {coverage_90, nll, nll_constant, sigma_m, error_m, windows}, ...}; every window counts the same.

        coverage_90: share of the errors, axis by axis, inside the central 90 % of the prediction. nll: negative
        log-likelihood of an error along one axis in nats; nll_constant: under the one variance that fits them all best,
        found on these very errors. sigma_m, error_m: root mean square of the predicted and of the true error.
        """
        out = {}
        for horizon, squares in sorted(self.squares.items()):
            pairs = list(zip(squares, self.variances[horizon], strict=True))
            inside = [float((s <= SIGMAS_90**2 * v).float().mean()) for s, v in pairs]
            nll = [float(0.5 * (s / v + v.log() + math.log(2 * math.pi)).mean()) for s, v in pairs]
            error = mean_of_numbers([float(s.mean()) for s in squares])
            variance = mean_of_numbers([float(v.mean()) for _, v in pairs])
            out[str(horizon)] = {
                "coverage_90": round(mean_of_numbers(inside), 4),
                "nll": round(mean_of_numbers(nll), 3),
                "nll_constant": round(0.5 * (1 + math.log(2 * math.pi * error)), 3),
                "sigma_m": round(math.sqrt(variance), 5),
                "error_m": round(math.sqrt(error), 5),
                "windows": len(pairs),
            }
        return out
