"""What is known exactly of a simulated episode: how every point moves, which pixels move, what was never seen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import max_pool2d

from scene4d.gaussians.edit import by_id
from scene4d.geometry.camera import project, unproject
from scene4d.geometry.rotation import apply_pose, compose_pose, invert_pose
from scene4d.scene import Motion, Scene4D
from scene4d.types import Episode, Frames, Gaussians


def segment_displacement(episode: Episode, points: Tensor, *, segments: Tensor, start: int, stop: int) -> Tensor:
    """Exact displacement [.. 3] of points [.. 3] that belong to segments [..] from frame `start` to `stop`."""
    poses = episode.known_segment_poses
    motion = compose_pose(poses[stop], invert_pose(poses[start]))  # [g 7]
    return apply_pose(motion[segments.clamp_min(0)], points) - points


def moving_pixels(episode: Episode, camera: str, *, start: int, stop: int, threshold: float) -> Tensor:
    """[h w] bool: pixels whose surface, seen at `start` or at `stop`, moves more than `threshold` m between the two.

    Of a camera that moves itself only the surface seen at `stop` counts: its earlier pixels are other places.
    """
    viewmats = episode.views[camera].cameras.viewmats
    still = torch.equal(viewmats[start], viewmats[stop])
    masks = []
    for here, there in ((stop, start), (start, stop)) if still else ((stop, start),):
        frames = episode.views[camera][here]
        points = unproject(frames.known_depth, frames.cameras.viewmats, Ks=frames.cameras.Ks)  # [h w 3]
        segments = frames.extras["segments"][..., 0].long()
        moved = segment_displacement(episode, points, segments=segments, start=here, stop=there).norm(dim=-1)
        masks.append((moved > threshold) & (frames.known_depth > 0) & (segments >= 0))
    return torch.stack(masks).any(0)


def never_seen_pixels(
    episode: Episode, camera: str, *, start: int, stop: int, inputs: Sequence[str], tolerance: float = 0.02
) -> Tensor:
    """[h w] bool: pixels of `camera` at frame `stop` whose surface no input camera has seen up to frame `start`.

    A point counts as seen where it once lay within `tolerance` m of the depths of the 3 x 3 pixels that it fell on, so
    what is left was hidden for certain. Pixels that show nothing at all are not in the mask.
    """
    frames, poses = episode.views[camera][stop], episode.known_segment_poses
    points = unproject(frames.known_depth, frames.cameras.viewmats, Ks=frames.cameras.Ks).flatten(0, 1)  # [p 3]
    segments = frames.extras["segments"].flatten().long()
    rows = ((frames.known_depth.flatten() > 0) & (segments >= 0)).nonzero()[:, 0]
    local = apply_pose(invert_pose(poses[stop])[segments[rows]], points[rows])  # [r 3]
    for t in range(start, -1, -1):
        places = apply_pose(poses[t][segments[rows]], local)
        seen = torch.zeros(len(rows), dtype=torch.bool)
        for name in inputs:
            seen |= _falls_on_surface(places, episode.views[name][t], tolerance=tolerance)
        rows, local = rows[~seen], local[~seen]
    mask = torch.zeros(points.shape[0], dtype=torch.bool)
    mask[rows] = True
    return mask.view(frames.known_depth.shape)


def measured_depth_at(points: Tensor, frames: Frames) -> tuple[Tensor, Tensor]:
    """What one camera measured where points [p 3] fall: depth [p], 0 = nothing, outside; and their own z-depth [p]."""
    at, inside, z = _pixels_of(points, frames)
    return torch.where(inside & (z > 1e-3), frames.known_depth.flatten()[at], 0.0), z


def _falls_on_surface(points: Tensor, frames: Frames, *, tolerance: float) -> Tensor:
    """Which points [r 3] lie, in one frame, within the range of depths round the pixel that they fall on: [r] bool."""
    depth = torch.where(frames.known_depth > 0, frames.known_depth, torch.nan)
    farthest = max_pool2d(depth.nan_to_num(-torch.inf)[None], 3, stride=1, padding=1)[0] + tolerance
    nearest = -max_pool2d(-depth.nan_to_num(torch.inf)[None], 3, stride=1, padding=1)[0] - tolerance
    at, inside, z = _pixels_of(points, frames)
    return inside & (z >= nearest.flatten()[at]) & (z <= farthest.flatten()[at])


def _pixels_of(points: Tensor, frames: Frames) -> tuple[Tensor, Tensor, Tensor]:
    """Flat pixel number [r] that points [r 3] fall on, whether it is in the image [r], z-depth [r] m."""
    pixels, z = project(points, frames.cameras.viewmats, Ks=frames.cameras.Ks)
    height, width = frames.rgb.shape[:2]
    column, row = pixels[:, 0].floor().long(), pixels[:, 1].floor().long()
    inside = (column >= 0) & (column < width) & (row >= 0) & (row < height) & (z > 0)
    return row.clamp(0, height - 1) * width + column.clamp(0, width - 1), inside, z


@dataclass(frozen=True)
class VisibleRows:
    """Memory rows that are seen now: their ids [r], places [r 3] and segments [r]."""

    ids: Tensor
    points: Tensor
    segments: Tensor

    def true_displacement(self, episode: Episode, *, start: int, stop: int) -> Tensor:
        """Exact displacement [r 3] m from frame `start`, at which they were seen, to `stop`."""
        return segment_displacement(episode, self.points, segments=self.segments, start=start, stop=stop)

    def predicted_displacement(self, scene: Scene4D, step: int) -> Tensor:
        """Displacement [r 3] m in a scene from its first time to `scene.times[step]`; 0 for rows that it has not."""
        flow, valid = scene.flow(float(scene.times[0]), float(scene.times[step]))
        return by_id(flow * valid[:, None], scene.base.ids, wanted=self.ids)[0]


def visible_rows(
    memory: Gaussians, episode: Episode, *, start: int, inputs: Sequence[str], tolerance: float
) -> VisibleRows:
    """Memory rows that an input camera sees at frame `start`, bound to the segment under them."""
    segments = torch.full((memory.num_gaussians,), -1)
    for name in inputs:
        frames = episode.views[name][start]
        at, inside, z = _pixels_of(memory.means, frames)
        depth = frames.known_depth.flatten()[at]
        seen = inside & ((depth - z).abs() < tolerance) & (depth > 0)
        segments = torch.where(seen & (segments < 0), frames.extras["segments"].flatten()[at].long(), segments)
    keep = (segments >= 0) & (memory.ids >= 0)
    return VisibleRows(memory.ids[keep], memory.means[keep], segments[keep])


def exact_scene(rows: Gaussians, segments: Tensor, *, episode: Episode, start: int, num_steps: int) -> Scene4D:
    """Rows [n], each moving with its segment [n] (-1 = at rest), over frame `start` and the `num_steps` after it."""
    poses = episode.known_segment_poses[start : start + num_steps + 1]  # [t g 7]
    times = episode.times[start : start + num_steps + 1]
    bound = (segments >= 0)[:, None]
    return Scene4D(
        base=rows,
        motion=Motion(
            anchors=poses[0, :, 4:],
            world_from_rest=compose_pose(poses, invert_pose(poses[:1]).expand_as(poses)),
            skin_index=segments.clamp_min(0)[:, None],
            skin_weights=bound.to(rows.means),
        ),
        alive=torch.stack([times[0], times[-1]]).expand(rows.num_gaussians, 2),
        times=times,
        observed=torch.arange(len(times)) == 0,
    )
