"""Which rows of the memory become anchors, which anchors a row may follow, and how an anchor moved lately."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from scene4d.geometry.neighbours import farthest_points, nearest
from scene4d.geometry.sh import rgb_from_sh
from scene4d.geometry.skinning import gather_anchors
from scene4d.robot.slots import Slots, proprio_slots
from scene4d.robot.spec import RobotSpec
from scene4d.types import Gaussians
from scene4d.world.carry import AnchoredGaussians
from scene4d.world.current import PAST_FLOW

SKIN_PLACE, SKIN_COLOUR, SKIN_MOTION = 0.01, 0.04, 0.002
"""Differences (m, colour, m a step) of a row and an anchor that count the same; the best of a few on training windows,
where true motion of the anchors moves rows to within 3.5 mm after 8 steps (rows at rest: 1.4 mm)."""
SKIN_REACH = 0.4
"""Metres from which a row follows no anchor."""


@dataclass(frozen=True)
class AnchorConfig:
    """How rows are compared when anchors are chosen and rows are hung on them."""

    num_anchors: int = 64
    """Anchors (tokens) a scene, l."""
    num_candidates: int = 4
    """Anchors a row may hang on, j."""
    reach: float = 0.6
    """Radius in m round the focus inside which distance counts nearly fully; beyond it space is compressed."""
    colour: float = 0.3
    """Metres that a full colour difference (black to white in one channel) is worth."""
    motion: float = 0.15
    """Metres that fast motion against standing still is worth."""
    motion_knee: float = 0.004
    """Metres a step at which past motion counts half."""
    rows_averaged: int = 12
    """Rows whose past motion is averaged to an anchor's."""


def joint_features(memory: Gaussians, *, focus: Tensor, config: AnchorConfig) -> Tensor:
    """Rows [n 9] in the space where anchors are spread: warped place, colour, past motion (all in m).

    `focus` [3] is where the detail is wanted (the hand). Past motion saturates, so that a wrong track of one Gaussian
    cannot buy an anchor at any distance.
    """
    offset = memory.means - focus  # [n 3]
    place = offset / (1 + offset.norm(dim=-1, keepdim=True) / config.reach)
    colour = rgb_from_sh(memory.sh) * config.colour
    velocity = memory.extras[PAST_FLOW][..., :3]
    speed = velocity.norm(dim=-1, keepdim=True)
    return torch.cat([place, colour, config.motion * velocity / (speed + config.motion_knee)], -1)


def choose_anchors(memory: Gaussians, *, focus: Tensor, config: AnchorConfig) -> tuple[Tensor, Tensor]:
    """Anchor rows [l] and each row's candidate anchors [n j] (numbers in 0..l-1), nearest first.

    Starts at the row nearest to the focus, so the order of the rows has no say. Fewer rows than anchors repeat rows.
    """
    features = joint_features(memory, focus=focus, config=config)
    start = int(features[:, :3].norm(dim=-1).argmin())
    index = farthest_points(features, min(config.num_anchors, len(features)), start=start)
    index = index[torch.arange(config.num_anchors) % len(index)]
    _, candidates = nearest(features[index], features, num=config.num_candidates)
    return index, candidates


def anchor_past(memory: Gaussians, anchor_index: Tensor, *, config: AnchorConfig) -> Tensor:
    """Past motion [l 6] of each anchor: its own and its nearest alike-moving rows' past flow, averaged.

    Averaging takes the noise off single tracks; rows that move otherwise (the table under a finger) are left out.
    """
    flow = memory.extras[PAST_FLOW]  # [n 6]
    anchors, num = memory.means[anchor_index], min(config.rows_averaged, flow.shape[0])
    _, rows = nearest(memory.means, anchors, num=num)  # [l k]
    apart = (flow[rows][..., :3] - flow[anchor_index][:, None, :3]).norm(dim=-1)
    away = (memory.means[rows] - anchors[:, None]).norm(dim=-1)
    weights = torch.exp(-((apart / 0.004) ** 2)) * torch.exp(-0.5 * (away / 0.04) ** 2)
    return (weights[..., None] * flow[rows]).sum(-2) / weights.sum(-1, keepdim=True).clamp_min(1e-9)


def on_anchors(memory: Gaussians, *, focus: Tensor, config: AnchorConfig) -> tuple[AnchoredGaussians, Tensor, Tensor]:
    """A memory [n] that follows anchors by `nearest_skin`, the rows [l] that these are, and their past motion [l 6]."""
    index, candidates = choose_anchors(memory, focus=focus, config=config)
    past = anchor_past(memory, index, config=config)
    none = memory.means.new_zeros(candidates.shape)
    anchored = AnchoredGaussians(memory, memory.means[index], candidates, none)
    weights = nearest_skin(anchored, rgb=rgb_from_sh(memory.sh)[index], past=past)
    return anchored.replace(skin_weights=weights), index, past


def nearest_skin(anchored: AnchoredGaussians, *, rgb: Tensor, past: Tensor) -> Tensor:
    """Weights [*b n j] of rows on their candidates, by nearness in place, colour and last motion; far rows follow none.

    Args:
        rgb, past: of the anchors [*b l 3] and [*b l 6].
    """
    rows, index = anchored.gaussians, anchored.skin_index
    offset = rows.means[..., None, :] - gather_anchors(anchored.anchors, index)  # [*b n j 3]
    colour = rgb_from_sh(rows.sh)[..., None, :] - gather_anchors(rgb, index)
    flow = rows.extras[PAST_FLOW][..., None, :3] - gather_anchors(past, index)[..., :3]
    sizes = [x.norm(dim=-1) / unit for x, unit in ((offset, SKIN_PLACE), (colour, SKIN_COLOUR), (flow, SKIN_MOTION))]
    weights = (-torch.stack(sizes).sum(0)).softmax(-1)
    return weights * (offset.norm(dim=-1) < SKIN_REACH)


def focus_of(memory: Gaussians, proprio: Tensor, *, robot: RobotSpec) -> Tensor:
    """Where detail is wanted [3]: at the hand if the robot's state names its place, else amid the memory."""
    if {"x", "y", "z"} <= {name.lower()[-1:] for name in robot.proprio.names}:
        return proprio_slots(proprio, robot, slots=Slots.fitting(robot))[:3]
    return memory.means.median(0).values
