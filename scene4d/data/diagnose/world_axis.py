"""Which axis of a recording's world points up: pictures are mostly taken upright, by cameras that look down."""

from __future__ import annotations

import torch

from scene4d.data.diagnose.calibration.sample import Sample
from scene4d.data.diagnose.finding import Finding
from scene4d.data.diagnose.repair.mend import AXES, Mend
from scene4d.geometry.camera import invert_rigid, unproject

UPRIGHT = 0.8  # cosine to the axis that is called up
AGREED = 0.4  # length of the mean over all cameras, where 1 is all alike


def check_world_axis(sample: Sample, *, tested: bool) -> list[Finding]:
    """A finding where world z points down; any other axis is a choice, of which `up_axis` tells.

    Args:
        tested: camera axes are known to be right. They look the same when they are OpenGL's in a world with z up.
    """
    if up_axis(sample) != "-z" or not _lies_beyond(sample):
        return []
    mend = Mend("up", ("-z",))
    if tested:
        return [Finding("world_axis", None, "pose", "world z points down", "world z up", str(mend), (mend,))]
    fix = f"convert a copy with --fix {mend} or with --fix opengl, and see which is right"
    return [Finding("world_axis", None, "pose", "z points down, or camera axes are OpenGL's", "world z up", fix)]


def up_axis(sample: Sample) -> str | None:
    """The world axis that the tops of the pictures point to, seen from above; None where none stands out."""
    viewmats = torch.cat([f.cameras.viewmats for w in sample.windows for f in w.views.values()])
    # Rows of a view matrix are the camera's axes in the world: up the picture, and back from what it looks down on.
    up = (-viewmats[:, 1, :3] - 0.5 * viewmats[:, 2, :3]).mean(0)
    direction = up / up.norm().clamp_min(1e-9)
    scores = {name: sign * float(direction[k]) for name, (k, sign) in AXES.items()}
    best = max(scores, key=scores.__getitem__)
    return best if scores[best] > UPRIGHT and float(up.norm()) > AGREED else None


def _lies_beyond(sample: Sample) -> bool:
    """Whether what cameras see has larger z than they: then z points down, or they are upside down and look up."""
    frames = [w.views[n] for w in sample.windows for n in sample.depth_cameras]
    if not frames:
        return True
    below = 0.0
    for frame in frames:
        depth = frame.known_depth
        points = unproject(depth, frame.cameras.viewmats, Ks=frame.cameras.Ks)[..., 2]
        offset = points - invert_rigid(frame.cameras.viewmats)[:, None, None, 2, 3]
        below += float(torch.where(depth > 0, offset.sign(), 0).sum())
    return below > 0
