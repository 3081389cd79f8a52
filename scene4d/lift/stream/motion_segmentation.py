"""Which rows move: those that the newest frames contradict, and those that move along with them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from scene4d.lift.stream.arap_icp import ArapIcpConfig, Cloud, SkinnedCloud, StepMotion, motion_of_step
from scene4d.lift.stream.point_search import nearest_in
from scene4d.lift.stream.rigid_anchors import Anchors, Skin, rotvecs_from_rotations, skin_to
from scene4d.lift.stream.row_store import RowStore
from scene4d.lift.stream.visibility import (
    AGREES,
    HIDDEN,
    RECOLOURED,
    UNKNOWN,
    VIOLATED,
    FrameObservation,
    Tolerances,
    Visibility,
    sensor_noise,
    unexplained_points,
    visibility_of,
)


@dataclass(frozen=True)
class MotionSegmentationConfig:
    """How moving rows are separated from static ones."""

    anchor_spacing: float = 0.06
    """Least distance in m between anchors; at least 2 pixel spacings."""
    max_anchors: int = 64
    """Most anchors with a motion of their own that are solved for at once."""
    max_twins: int = 2000
    """Most anchors in all, mirrored ones included; beyond, what starts to move gets new rows."""
    reach: float = 0.08
    """Distance in m from changed or moving rows within which static rows are candidates for moving too."""
    min_cluster: int = 3
    """Changed rows that must stand together to be more than noise."""
    still: float = 0.0005
    """Motion in m a step below which an anchor is held still."""
    memory: float = 0.8
    """Share of the evidence for motion that is kept from step to step."""
    threshold: float = 0.5
    """Evidence from which a row is moving."""


def follow_motion(
    memory: RowStore,
    anchors: Anchors,
    *,
    observation: FrameObservation,
    visibility: Visibility,
    tolerances: Tolerances,
    config: MotionSegmentationConfig,
    track: ArapIcpConfig,
) -> bool:
    """Find what moved since the last frames, from how the new ones see the rows, and carry it; False if nothing did."""
    changed = changed_rows(memory, visibility, spacing=observation.typical_spacing, min_cluster=config.min_cluster)
    static = Visibility(*(np.where(memory.moving, 0, column) for column in vars(visibility).values()))
    target = unexplained_points(observation, memory, visibility=static, tolerances=tolerances)
    solve = partial(solve_step, observation=observation, visibility=visibility, config=config, track=track)
    solved = solve(memory, anchors, changed=changed, target=target)
    if solved is None:
        anchors.velocity *= 0
        return False
    solved = held_still(solved, config.still)
    candidates = candidate_rows(memory, visibility, changed=changed, reach=config.reach)
    find = partial(moving_rows, observation=observation, visibility=visibility, tolerances=tolerances, config=config)
    rows, skin = find(memory, candidates, solved=solved)
    bind_and_move(memory, anchors, solved=solved, rows=rows, skin=skin, config=config)
    memory.carry(anchors)
    return True


def changed_rows(memory: RowStore, visibility: Visibility, *, spacing: float, min_cluster: int) -> np.ndarray:
    """[n] static rows that are not where or what they were: looked through, recoloured, just behind a new surface."""
    at_home = visibility.status[memory.home, np.arange(len(memory))]
    gap = visibility.gap[memory.home, np.arange(len(memory))]
    sunk = (at_home == HIDDEN) & (gap < 2.5 * memory.spacing)
    changed = ~memory.moving & (visibility.violated | (at_home == VIOLATED) | sunk)
    changed |= ~memory.moving & (at_home == RECOLOURED) & ~visibility.agrees
    index = np.nonzero(changed)[0]
    if len(index) == 0:
        return changed
    distance, _ = nearest_in(memory.x[index], memory.x[index], num=min_cluster)
    alone = distance.reshape(len(index), min_cluster)[:, -1] > 2.5 * spacing
    changed[index[alone]] = False
    return changed


def candidate_rows(memory: RowStore, visibility: Visibility, *, changed: np.ndarray, reach: float) -> np.ndarray:
    """Index [s] of the static rows that may move: changed ones, and visible ones near them or near moving rows."""
    moving = memory.moving
    source = np.nonzero(changed | moving)[0]
    static = np.nonzero(~moving & (changed | visibility.any(AGREES, RECOLOURED)))[0]
    if len(source) == 0 or len(static) == 0:
        return np.zeros(0, dtype=np.int64)
    distance, _ = nearest_in(memory.x[source], memory.x[static], limit=reach)
    return static[np.isfinite(distance)]


def spread_out(points: np.ndarray, *, others: np.ndarray, spacing: float, limit: int) -> np.ndarray:
    """Points [k 3] chosen farthest first until all lie within `spacing` of a chosen one or of `others` [m 3]."""
    if len(points) == 0 or limit <= 0:
        return np.zeros((0, 3))
    distance = np.full(len(points), np.inf)
    if len(others):
        distance, _ = nearest_in(others, points)
    chosen = []
    while len(chosen) < limit and distance.max() > spacing:
        pick = points[distance.argmax()]
        chosen.append(pick)
        distance = np.minimum(distance, np.linalg.norm(points - pick, axis=-1))
    return np.array(chosen).reshape(-1, 3)


@dataclass
class StepSolution:
    """Motion of the active anchors over this step: `active` [a] into the anchors, -1 = one not yet added; `gap` m
    between anchors."""

    active: np.ndarray
    gap: float
    motion: StepMotion


def solve_step(
    memory: RowStore,
    anchors: Anchors,
    *,
    observation: FrameObservation,
    visibility: Visibility,
    changed: np.ndarray,
    target: np.ndarray,
    config: MotionSegmentationConfig,
    track: ArapIcpConfig,
) -> StepSolution | None:
    """Choose anchors on newly `changed` rows [n] and find the motion of all that carry any; None if nothing moves.

    Of the lifted points the `target` [p] are those that no static row explains.
    """
    spacing = observation.typical_spacing
    moving = np.nonzero(memory.moving)[0]
    held = np.unique(anchors.parent[memory.skin_index[moving]]) if len(moving) else np.zeros(0, dtype=np.int64)
    now = anchors.now
    gap = max(config.anchor_spacing, 2 * spacing)
    fresh = spread_out(memory.x[changed], others=now[held], spacing=gap, limit=config.max_anchors - len(held))
    if len(held) + len(fresh) == 0 or not target.any():
        return None
    centres = np.concatenate([now[held], fresh])
    start = np.concatenate([anchors.velocity[held], np.zeros((len(fresh), 6))])
    position = np.zeros(len(anchors), dtype=np.int64)
    position[held] = np.arange(len(held))

    recent = moving[memory.seen[moving] >= memory.seen.max() - 3]
    questioned = np.nonzero(changed)[0]
    rows = np.concatenate([recent, questioned])
    if len(rows) == 0:
        return None
    each = np.repeat(memory.x[rows][:, None], memory.num_skin, 1)
    skin = _no_skin(memory, len(rows))
    num = len(recent)
    if num:
        each[:num] = anchors.per_anchor(memory.place[recent], memory.skin_index[recent])
        skin.index[:num] = position[anchors.parent[memory.skin_index[recent]]]
        skin.weights[:num] = memory.skin_weights[recent]
    if len(questioned):
        found = skin_to(memory.x[questioned], centres, num=memory.num_skin, spacing=gap)
        skin.index[num:], skin.weights[num:] = found.index, found.weights
    sources = SkinnedCloud(Cloud(memory.x[rows], memory.normal[rows], memory.colour[rows]), each, skin)
    targets = Cloud(observation.points[target], observation.normals[target], observation.colours[target])
    front = front_points(memory, observation, visibility=visibility, spacing=spacing)[target]
    motion = motion_of_step(sources, targets, centres=centres, start=start, spacing=spacing, config=track, front=front)
    return StepSolution(np.concatenate([held, np.full(len(fresh), -1)]), gap, motion)


def held_still(solved: StepSolution, still: float) -> StepSolution:
    """Anchors that hardly move are held exactly still, so that what rests does not creep."""
    motion = solved.motion
    turn = np.linalg.norm(rotvecs_from_rotations(motion.rotation), axis=-1)
    rests = (np.linalg.norm(motion.shift, axis=-1) < still) & (turn < still / 0.05)
    rotation = np.where(rests[:, None, None], np.eye(3), motion.rotation)
    shift = np.where(rests[:, None], 0.0, motion.shift)
    return replace(solved, motion=replace(motion, rotation=rotation, shift=shift))


def moving_rows(
    memory: RowStore,
    rows: np.ndarray,
    *,
    observation: FrameObservation,
    visibility: Visibility,
    solved: StepSolution,
    tolerances: Tolerances,
    config: MotionSegmentationConfig,
) -> tuple[np.ndarray, Skin]:
    """Those of the candidate `rows` [s] that move: rows [k] and their anchors, numbered as in solved.active.

    A row moves when the motion found round it explains the new frames better than rest does; rows that neither
    contradicts follow their neighbours.
    """
    if len(rows) == 0:
        return rows, _no_skin(memory, 0)
    noise = sensor_noise(memory, visibility, limit=tolerances)
    near = skin_to(memory.x[rows], solved.motion.centre, num=memory.num_skin, spacing=solved.gap)
    there = solved.motion.apply(np.repeat(memory.x[rows][:, None], memory.num_skin, 1), near)
    moves = np.linalg.norm(there - memory.x[rows], axis=-1) > 2 * config.still
    home = memory.home[rows]
    rest = _misfit(visibility, rows, home=home, noise=noise)
    moved_visibility = visibility_of(there, observation, colours=memory.colour[rows], tolerances=tolerances)
    moved = _misfit(moved_visibility, np.arange(len(rows)), home=home, noise=noise)
    # Held against a range of pixels, a moved row fits a little too easily: rest has to be contradicted to lose.
    gain = np.where(np.isnan(rest) | np.isnan(moved), 0.0, np.clip(rest - moved - 0.3, -1.5, 1.5))
    evidence = memory.evidence[rows] = config.memory * memory.evidence[rows] + np.where(moves, gain, 0.0)
    convinced = moves & (evidence > config.threshold) & ~moved_visibility.violated
    silent = moves & ~convinced & ~(moved > 1.0) & ~(rest < 0.02)
    convinced[silent] = _neighbourhood(memory, rows=rows, convinced=convinced, candidates=silent) > 0.6
    return rows[convinced], near.pick(convinced)


def _no_skin(memory: RowStore, count: int) -> Skin:
    """Static rows [k]."""
    return Skin(np.zeros((count, memory.num_skin), dtype=np.int64), np.zeros((count, memory.num_skin)))


def _misfit(visibility: Visibility, rows: np.ndarray, *, home: np.ndarray, noise: Tolerances) -> np.ndarray:
    """[k] how far depth and colour are off in the view that saw a row last, in units of the noise, capped; NaN where it
    does not see it now."""
    status, gap, mismatch = visibility.status[home, rows], visibility.gap[home, rows], visibility.mismatch[home, rows]
    usable = (status != UNKNOWN) & ~((status == HIDDEN) & (gap > 0.05))
    off = np.minimum(np.abs(gap) / noise.absolute, 2.0) + np.minimum(mismatch / noise.colour, 1.0)
    return np.where(usable, off, np.nan)


def _neighbourhood(memory: RowStore, *, rows: np.ndarray, convinced: np.ndarray, candidates: np.ndarray) -> np.ndarray:
    """[a] share of moving rows among the nearest alike candidates and moving rows, for those marked `candidates`."""
    if not candidates.any():
        return np.zeros(0)
    moving = np.nonzero(memory.moving)[0]
    points = np.concatenate([memory.x[rows], memory.x[moving]])
    colours = np.concatenate([memory.colour[rows], memory.colour[moving]])
    votes = np.concatenate([convinced.astype(np.float64), np.ones(len(moving))])
    features = np.concatenate([points / float(np.median(memory.spacing[rows])), 4.0 * colours], -1)
    num = min(9, len(features))
    if num < 2:
        return np.zeros(int(candidates.sum()))
    _, index = nearest_in(features, features[: len(rows)][candidates], num=num)
    return votes[index[:, 1:]].mean(1)


def front_points(
    memory: RowStore, observation: FrameObservation, *, visibility: Visibility, spacing: float
) -> np.ndarray:
    """[p] lifted points where a surface has come, or where a moving one was: not just background laid bare."""
    marked = np.zeros(observation.num_views * observation.num_pixels, dtype=bool)
    near = memory.moving & (visibility.status != UNKNOWN) & (visibility.gap > -2 * spacing)
    view, row = np.nonzero((visibility.status == HIDDEN) | near)
    marked[view * observation.num_pixels + visibility.pixel[view, row]] = True
    return marked[observation.pixel]


def bind_and_move(
    memory: RowStore,
    anchors: Anchors,
    *,
    solved: StepSolution,
    rows: np.ndarray,
    skin: Skin,
    config: MotionSegmentationConfig,
) -> None:
    """Bind rows [k] that start to move to anchors, by their skin in solved.active, then move all anchors."""
    active = solved.active.copy()
    used = np.bincount(skin.index[skin.weights > 0.2], minlength=len(active))
    fresh = np.nonzero((active < 0) & (used >= config.min_cluster))[0]
    active[fresh] = anchors.add(solved.motion.centre[fresh])
    if len(rows):
        weights = np.where(active[skin.index] < 0, 0.0, skin.weights)
        total = weights.sum(1)
        keep = total > 0.2
        rows, index, weights = rows[keep], active[skin.index[keep]], weights[keep] / total[keep, None]
        index = np.where(weights > 0, index, index[np.arange(len(index)), weights.argmax(1)][:, None])
        if len(anchors) < config.max_twins and len(rows):
            memory.skin_index[rows] = anchors.mirrored(index)
            memory.skin_weights[rows] = weights
    num, known, motion = len(anchors), active >= 0, solved.motion
    rotation, shift = np.broadcast_to(np.eye(3), (num, 3, 3)).copy(), np.zeros((num, 3))
    velocity = np.zeros((num, 6))
    rotation[active[known]] = motion.rotation[known]
    arm = np.einsum("mab,mb->ma", motion.rotation[known], motion.centre[known])
    shift[active[known]] = motion.centre[known] + motion.shift[known] - arm
    velocity[active[known]] = np.concatenate([rotvecs_from_rotations(motion.rotation[known]), motion.shift[known]], -1)
    anchors.move(rotation, shift, velocity=velocity)
