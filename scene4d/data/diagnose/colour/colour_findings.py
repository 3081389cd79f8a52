"""What points that were found again say about the cameras, as findings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from scene4d.data.diagnose.colour.epipolar import epipolar_error
from scene4d.data.diagnose.finding import Finding
from scene4d.data.diagnose.repair.mend import Mend
from scene4d.geometry.camera import CV_FROM_GL, invert_rigid
from scene4d.types import Cameras

MISFIT, LEAST = 1 / 96, 2.5  # of the picture's width (5 px of 480), and px: further off, a point lies elsewhere
MENDED = 0.4  # of that, at most, is left by what is the mistake
MOSTLY, HARDLY = 0.6, 0.1  # of the points found again have moved
FEW = 2  # pairs of pictures must show it
AXES = (("opengl",), ("inverted",), ("inverted", "opengl"))
LAID = (("upside_down", "flip_vertical", (False, True)), ("mirrored", "flip_horizontal", (True, False)))
FIX = "calibrate again, or find out which cameras and frames this calibration belongs to"


@dataclass(frozen=True)
class Motion:
    """Two frames of one camera."""

    share: float  # of the points found again that have moved
    far: bool  # whether, by its poses, the camera moved so far that the picture changes


@dataclass(frozen=True)
class ViewPair:
    """Two views of one camera (one name) or of two: points [m 4] px found in both, and what the calibration says."""

    names: tuple[str, ...]
    matches: Tensor
    views: tuple[Cameras, Cameras]

    @property
    def limit(self) -> float:
        """px that points may lie off."""
        return max(LEAST, MISFIT * min(v.width for v in self.views))

    @property
    def error(self) -> float:
        """px that they lie off, mostly."""
        viewmats, Ks = (torch.stack([getattr(v, k) for v in self.views]) for k in ("viewmats", "Ks"))
        return float(epipolar_error(self.matches, viewmats=viewmats, Ks=Ks).median())


def motion_findings(name: str, motions: Sequence[Motion], *, moves: bool) -> list[Finding]:
    """A finding where a camera's picture moves and its pose does not, or the reverse."""
    if not moves:
        moved = [m.share for m in motions if m.share > MOSTLY]
        if len(moved) < FEW:
            return []
        found = f"declared still, but its picture moves: {100 * max(moved):.0f} % of the points found again elsewhere"
        fix = 'give a pose for each frame ("viewmats" in cameras.json), or leave this camera out'
        return [Finding("picture_moves", name, "pose", found, "a pose for each frame", fix)]
    far = [m.share for m in motions if m.far]
    still = [share for share in far if share < HARDLY]
    if len(still) < FEW or len(still) < MOSTLY * len(far):
        return []
    found = "declared moving, but its picture stands still"
    fix = "find out which camera these poses belong to; copy the video again where its pictures were lost"
    return [Finding("picture_stands_still", name, "pose", found, "a picture that changes with the pose", fix)]


def misfit_findings(pairs: Sequence[ViewPair]) -> list[Finding]:
    """A finding where points lie elsewhere than the cameras say; a mend where one mistake explains all of it."""
    groups: dict[tuple[str, ...], list[ViewPair]] = {}
    for pair in pairs:
        groups.setdefault(pair.names, []).append(pair)
    wrong = {names: group for names, group in groups.items() if _off(group) > 1 and _enough(group)}
    if not wrong:
        return []
    mistake = _mistake([p for group in wrong.values() for p in group])
    errors = torch.tensor([p.error for group in wrong.values() for p in group])
    limit = min(p.limit for group in wrong.values() for p in group)
    lie = f"points found in two pictures lie {float(errors.median()):.3g} px (median) from where the cameras say"
    alike = set.intersection(*(set(names) for names in wrong)) if len(wrong) < len(groups) else set()
    camera = ",".join(sorted(alike)) or None
    expected = f"under {limit:.3g} px"
    if mistake is None:
        return [Finding("does_not_fit", camera, "pose", lie, f"{expected}; no single mistake explains it", FIX)]
    kind, field, words, mends = mistake
    fix = " ".join(map(str, mends))
    return [Finding(kind, None, field, f"{words}: {lie}", expected, fix, mends)]


def _enough(group: Sequence[ViewPair]) -> bool:
    return len(group) >= FEW or len(group[0].names) == 2


def _off(group: Sequence[ViewPair]) -> float:
    """How many times as far as they may points lie off, mostly."""
    return float(torch.tensor([p.error / p.limit for p in group]).median())


def _mistake(pairs: Sequence[ViewPair]) -> tuple[str, str, str, tuple[Mend, ...]] | None:
    """Kind, field, words and mends of the one mistake that explains where all points lie, if there is one."""
    tried: list[tuple[float, tuple[str, str, str, tuple[Mend, ...]]]] = []
    for names in AXES:
        words = {"opengl": "OpenGL axes (y up, z back)", "inverted": "poses inverted"}
        description = " and ".join(words[n] for n in names)
        mends = tuple(Mend(n) for n in names)
        tried.append((_off([_posed(p, names) for p in pairs]), ("camera_axes", "pose", description, mends)))
    for kind, name, sides in LAID:
        description = "pictures are upside down" if kind == "upside_down" else "pictures are mirrored, left for right"
        tried.append((_off([_laid(p, sides) for p in pairs]), (kind, "rgb, depth", description, (Mend(name),))))
    turned = ("turned", "rgb, depth", "pictures are turned half round", (Mend("turn", ("180",)),))
    tried.append((_off([_laid(p, (True, True)) for p in pairs]), turned))
    fit = sorted((item for item in tried if item[0] < MENDED), key=lambda item: item[0])
    # Where two explain it as well as each other, neither is known to be it.
    return fit[0][1] if len(fit) == 1 or (len(fit) > 1 and fit[0][0] < MENDED * fit[1][0]) else None


def _posed(pair: ViewPair, names: Sequence[str]) -> ViewPair:
    views = []
    for view in pair.views:
        viewmats = invert_rigid(view.viewmats) if "inverted" in names else view.viewmats
        flip = torch.diag(viewmats.new_tensor([*CV_FROM_GL, 1.0]))
        views.append(view.replace(viewmats=flip @ viewmats if "opengl" in names else viewmats))
    return replace(pair, views=(views[0], views[1]))


def _laid(pair: ViewPair, sides: tuple[bool, bool]) -> ViewPair:
    """The pair with its pictures mirrored across, down, or both."""
    matches = pair.matches.clone()
    for k, view in enumerate(pair.views):
        for side, length in enumerate((view.width, view.height)):
            if sides[side]:
                matches[:, 2 * k + side] = length - matches[:, 2 * k + side]
    return replace(pair, matches=matches)
