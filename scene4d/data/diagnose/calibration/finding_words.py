"""Mistakes of calibration in words, with the mends that put them right."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from scene4d.data.diagnose.calibration.hypotheses import Hypothesis
from scene4d.data.diagnose.calibration.sample import Sample
from scene4d.data.diagnose.finding import Finding
from scene4d.data.diagnose.repair.mend import PARTS, Mend
from scene4d.data.timeline.stretches import full_sizes

PLAUSIBLE_DEPTH = (0.05, 30.0)  # m, the median


def finding_in_words(sample: Sample, hypothesis: Hypothesis, *, score: tuple[float, float]) -> Finding:
    """What a hypothesis that explains the sample says.

    Args:
        score: share of the compared pixels on which views agree, before and after the mends.
    """
    mends = _likelier(sample, hypothesis.mends)
    found, expected = _in_words(sample, hypothesis.kind, mends=mends)
    kind, field = hypothesis.kind, hypothesis.field
    if mends != hypothesis.mends:
        kind, field = kind.replace("position_scale", "depth_unit"), field.replace("pose", "depth")
    cameras = hypothesis.cameras
    return Finding(
        kind=kind,
        camera=",".join(cameras) if cameras else None,
        field=field,
        found=found,
        expected=expected,
        fix=" ".join(str(m) for m in mends),
        mends=mends,
        score=score,
    )


def _likelier(sample: Sample, mends: tuple[Mend, ...]) -> tuple[Mend, ...]:
    """The mends, with depth scaled for positions where it is depth that is no depth of a room or a table."""
    last = mends[-1]
    if last.name != "position_scale" or last.cameras:
        return mends
    (factor,), median = map(float, last.value), median_depth(sample)
    plausible = [PLAUSIBLE_DEPTH[0] < depth < PLAUSIBLE_DEPTH[1] for depth in (median, median / factor)]
    return (*mends[:-1], Mend("depth_scale", (1 / factor,))) if plausible == [False, True] else mends


def median_depth(sample: Sample, names: Sequence[str] = ()) -> float:
    """The median of what cameras (all where none is named) measured, m."""
    names = names or sample.depth_cameras
    depth = torch.cat([w.views[n].known_depth.flatten() for w in sample.windows for n in names])
    return float(depth[depth > 0].median()) if (depth > 0).any() else 0.0


def _in_words(sample: Sample, kind: str, *, mends: tuple[Mend, ...]) -> tuple[str, str]:
    """Found, and expected."""
    value = mends[-1].value
    match kind:
        case "camera_axes":
            return _axes_in_words(mends), "OpenCV axes, poses as the format defines them"
        case "depth_unit" | "position_scale":
            return _scale_in_words(sample, mends[0])
        case "camera_axes_and_position_scale":
            found, expected = _scale_in_words(sample, mends[-1])
            return f"{_axes_in_words(mends[:-1])}, and {found}", f"OpenCV axes, and {expected}"
        case "upside_down" | "mirrored" | "turned":
            return _orientation_in_words(mends[0])
        case "ray_depth":
            return "depth is the distance along the ray", "z-depth, along the optical axis"
        case "K_size":
            camera = mends[0].cameras[0] if mends[0].cameras else sample.depth_cameras[0]
            width, height = full_sizes(sample.recording)[camera]
            across, down = float(value[0]), float(value[-1])
            return f"K for {width / across:.0f}x{height / down:.0f} pictures", f"K for {width}x{height}"
        case "lag":
            late = int(value[0])
            moved = f"{abs(late)} frame{'s' if abs(late) > 1 else ''} {'late' if late > 0 else 'early'}"
            return f"poses come {moved}", "each picture with its own pose"
        case "swapped_cameras":
            return f"{value[0]} has the calibration of {value[1]} and the reverse", "each camera its own"
    raise KeyError(kind)


def _axes_in_words(mends: Sequence[Mend]) -> str:
    words = {
        "opengl": "OpenGL axes (y up, z back)",
        "inverted": "poses inverted (camera-from-world for world-from-camera, or the reverse)",
    }
    return " and ".join(words[m.name] for m in mends)


def _scale_in_words(sample: Sample, mend: Mend) -> tuple[str, str]:
    """Depth and positions in different units agree whichever of the two is changed: the finding names both."""
    factor = float(mend.value[0])
    size, wrong = ("small" if factor > 1 else "large"), f"{1 / factor:.4g}"
    whose = f" of {','.join(mend.cameras)}" if mend.cameras else ""
    median = median_depth(sample, mend.cameras)
    if mend.name == "position_scale":
        expected = f"camera positions {factor:.4g} times what they are"
        if not mend.cameras:
            expected += f" (or depth {1 / factor:.4g} times what it is: a median of {median / factor:.4g} m)"
        return f"camera positions{whose} are too {size}: {wrong} of what depth shows", expected
    views = "other views show" if mend.cameras else "camera positions show"
    found = f"depth{whose} is too {size}, with a median of {median:.4g} m: {wrong} of what {views}"
    other = "" if mend.cameras else f" (or camera positions {1 / factor:.4g} times what they are)"
    return found, f"depth {factor:.4g} times what it is, with a median of {median * factor:.4g} m{other}"


def _orientation_in_words(mend: Mend) -> tuple[str, str]:
    part = {"rgb": "colour", "depth": "depth"}.get(next((str(v) for v in mend.value if v in PARTS), ""), "pictures")
    be = "is" if part in ("colour", "depth") else "are"
    expected = f"{part} as the calibration sees {'it' if be == 'is' else 'them'}"
    match mend.name:
        case "flip_vertical":
            return f"{part} {be} upside down (rows run from the bottom up)", expected
        case "flip_horizontal":
            return f"{part} {be} mirrored, left for right", expected
    back = 360 - int(mend.value[0])
    how = "half round" if back == 180 else f"{back} degrees clockwise"
    return f"{part} {be} turned {how}", expected
