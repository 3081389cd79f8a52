"""How calibration and depth are commonly wrong, each with the mend that would put it right."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

from scene4d.data.diagnose.calibration.sample import MAX_LAG, Sample
from scene4d.data.diagnose.repair.mend import Mend
from scene4d.data.timeline.stretches import full_sizes

AXES = (("opengl",), ("inverted",), ("inverted", "opengl"))
SIZES = (
    (128, 128), (160, 120), (224, 224), (256, 256), (320, 180), (320, 240), (424, 240), (480, 270), (512, 512),
    (640, 360), (640, 480), (800, 600), (848, 480), (960, 540), (1024, 768), (1024, 1024), (1280, 720), (1280, 960),
    (1280, 1024), (1296, 968), (1440, 1080), (1920, 1080), (1920, 1440), (2560, 1440), (3840, 2160),
)  # fmt: skip
RATIOS = (1 / 4, 1 / 3, 1 / 2, 2 / 3, 3 / 4, 4 / 3, 3 / 2, 2.0, 3.0, 4.0)
OFF_CENTRE = 0.08
SAME_SIZE = 0.05
ALIKE = 0.03
ODD = 0.93
PARTS = ("", "rgb", "depth")


@dataclass(frozen=True)
class Hypothesis:
    """What may be wrong."""

    kind: str  # the finding's kind
    field: str  # the finding's field
    mends: tuple[Mend, ...]  # what would put it right

    @property
    def likely(self) -> float:
        """What its gain counts for: what fits anything a little must explain clearly more than a plain mistake.

        That is a factor between positions and depth, and K of pictures in other proportions.
        """
        odd = any(m.name.endswith("_scale") and (m.name != "K_scale" or len(m.value) == 2) for m in self.mends)
        return ODD if odd else 1.0

    @property
    def cameras(self) -> tuple[str, ...]:
        """Cameras concerned; all where empty."""
        first = self.mends[0]
        return tuple(str(v) for v in first.value) if first.name == "swap" else first.cameras


def hypotheses_of(sample: Sample) -> list[Hypothesis]:
    """What to try on a sample: everything on all cameras, then on each, then exchanges of two. For scale see there."""
    names, moving = sample.depth_cameras, sample.moving()
    scopes: list[tuple[str, ...]] = [()]
    scopes += [(n,) for n in names] if len(names) > 1 else []
    found: list[Hypothesis] = []
    for scope in scopes:
        found += [Hypothesis("camera_axes", "pose", tuple(Mend(w, (), scope) for w in words)) for words in AXES]
        found += _orientations(sample, scope)
        found.append(Hypothesis("ray_depth", "depth", (Mend("ray_depth", (), scope),)))
        found += [Hypothesis("K_size", "K", (Mend("K_scale", v, scope),)) for v in _K_factors(sample, scope or names)]
    lagging = [tuple(n for n in names if n in moving)]
    lagging += [(n,) for n in lagging[0]] if len(lagging[0]) > 1 else []
    for late in lagging:
        scope = () if set(late) == set(moving) else late
        shifts = [k for k in range(-MAX_LAG, MAX_LAG + 1) if k and late and len(sample.windows[0].times) > 2 * MAX_LAG]
        found += [Hypothesis("lag", "pose", (Mend("lag", (float(k),), scope),)) for k in shifts]
    found += [Hypothesis("swapped_cameras", "pose", (Mend("swap", p),)) for p in itertools.combinations(names, 2)]
    return found


def _orientations(sample: Sample, scope: tuple[str, ...]) -> list[Hypothesis]:
    """Pictures that lie otherwise than the calibration says: all of them, colour alone or depth alone."""
    found = []
    for part in PARTS:
        value = (part,) if part else ()
        found.append(Hypothesis("upside_down", part or "rgb, depth", (Mend("flip_vertical", value, scope),)))
        found.append(Hypothesis("mirrored", part or "rgb, depth", (Mend("flip_horizontal", value, scope),)))
        for angle in (90, 180, 270) if _all_square(sample, scope) else (180,):
            turn = Mend("turn", (str(angle), *value), scope)
            found.append(Hypothesis("turned", part or "rgb, depth", (turn,)))
    return found


def _all_square(sample: Sample, scope: tuple[str, ...]) -> bool:
    sizes = full_sizes(sample.recording)
    return all(sizes[n][0] == sizes[n][1] for n in scope or sample.cameras)


def _K_factors(sample: Sample, names: Sequence[str]) -> list[tuple[float, ...]]:
    """Factors that bring the optical axis near the middle of the picture, as that of most cameras is."""
    sizes = full_sizes(sample.recording)
    factors: set[tuple[float, ...]] = set()
    for name in names:
        cameras = sample.windows[0].views[name].cameras
        centre = (float(cameras.Ks[0, 0, 2]) / cameras.width, float(cameras.Ks[0, 1, 2]) / cameras.height)
        width, height = sizes[name]
        plain = [(r, r) for r in RATIOS]
        exact = [(width / w, height / h) for w, h in SIZES]
        # Views cannot tell factors this much alike: the plain one is the likelier.
        odd = [(a, d) for a, d in exact if not any(max(abs(a / r - 1), abs(d / r - 1)) < ALIKE for r in RATIOS)]
        for across, down in plain + odd:
            middle = max(abs(centre[0] * across - 0.5), abs(centre[1] * down - 0.5)) < OFF_CENTRE
            if middle and max(abs(across - 1), abs(down - 1)) > SAME_SIZE:
                factors.add((round(across, 6),) if abs(across - down) < 1e-6 else (round(across, 6), round(down, 6)))
    return sorted(factors)
