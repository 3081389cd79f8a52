"""Rigid bodies among tracked points: found one after the other, each the motion that most points nearby follow."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from scene4d.geometry.connected import connected_parts
from scene4d.geometry.neighbours import farthest_points, nearest
from scene4d.objects.rigid_motion import body_shape, fit_motion
from scene4d.objects.tracks import Tracks, colour_feature, track_noise


@dataclass(frozen=True)
class RigidConfig:
    """How points are grouped by common rigid motion."""

    tolerance: float = 0.002
    """Root mean square distance in m from one rigid motion up to which points follow it, where tracks are exact."""
    noise_factor: float = 3.0
    """What is added to it: this many times the noise of the tracks, which is read off points that lie close
    together."""
    reach: float = 0.03
    """Gap in m across which points still hang together."""
    min_rows: int = 12
    """Points that a body has at least."""
    min_life: float = 0.2
    """Share of the instants that a point has to be followed for, to show a motion."""
    num_seeds: int = 32
    """Places that a body is looked for from at once."""
    num_neighbours: int = 32
    """Points round each of them whose common motion is tried."""
    max_bodies: int = 32
    """Most bodies."""
    colour: float = 0.15
    """Difference of colour, all channels together, that weighs as much as `reach` in place."""
    witnessed: float = 0.6
    """Share of a body's path from which its parts of another colour count as parts of it; what came into being later
    and only goes along is an object of its own."""
    max_rows: int = 3000
    """Most points that bodies are looked for among; the others join them afterwards."""


@dataclass(frozen=True)
class Body:
    """One rigid motion, turn [t 3 3] and shift [t 3] (world-from-body), and the points that show it: rows [r]."""

    turn: Tensor
    shift: Tensor
    rows: Tensor


def rigid_bodies(tracks: Tracks, *, config: RigidConfig) -> tuple[list[Body], float]:
    """The bodies among points that move, the best supported first, and the tolerance in m that was used.

    Sequential consensus: from each of many places the motion of the points round it is fitted; the one that most points
    follow is grown over what hangs together and follows, and taken away. Bodies whose union still moves as one are
    joined at the end. Nothing is drawn at random: neither the order of the rows nor the place of the world counts.
    """
    life = tracks.valid.sum(0)
    rows = (life >= max(2, round(config.min_life * len(tracks.times)))).nonzero()[:, 0]
    if len(rows) > config.max_rows:
        rows = rows[farthest_points(_feature(tracks.rows(rows)), config.max_rows, start=None)]
    rows, bodies = rows.sort().values, []
    tolerance = config.tolerance + config.noise_factor * track_noise(tracks)
    while len(rows) >= config.min_rows and len(bodies) < config.max_bodies:
        left = tracks.rows(rows)
        feature = _feature(left)
        seeds = farthest_points(feature, min(config.num_seeds, len(rows)), start=None)
        _, near = nearest(feature, feature[seeds], num=min(config.num_neighbours, len(rows)))  # [s r]
        turn, shift = fit_motion(left.positions[:, near].movedim(0, 1), left.valid[:, near].movedim(0, 1))
        _, residual = _followed(left, turn=turn, shift=shift)  # [s n]
        score = _support(residual, left, tolerance=tolerance)
        grown = [
            _grown(left, near[seed], tolerance=tolerance, config=config)
            for seed in score.argsort(descending=True, stable=True)[:3]
        ]
        inside, body_turn, body_shift = max(grown, key=lambda found: int(left.valid[:, found[0]].sum()))
        if len(inside) < config.min_rows:
            break
        bodies.append(Body(body_turn, body_shift, rows[inside]))
        member = torch.zeros(len(rows), dtype=torch.bool)
        member[inside] = True
        rows = rows[~member]
    bodies = _joined(tracks, bodies, tolerance=tolerance, config=config)
    return [part for body in bodies for part in _parts_by_history(tracks, body, config=config)], tolerance


def _feature(tracks: Tracks) -> Tensor:
    """[n 4] mean place of each point in m, and its mean time: what lay near at another time is not near."""
    weight = tracks.valid.to(tracks.positions)
    weight = weight / weight.sum(0).clamp_min(1)
    place = (weight[..., None] * tracks.positions).sum(0)
    steps = torch.linspace(0, 0.1, len(tracks.times), dtype=torch.float64)
    return torch.cat([place, (weight * steps[:, None]).sum(0)[:, None]], -1)


def _followed(tracks: Tracks, *, turn: Tensor, shift: Tensor) -> tuple[Tensor, Tensor]:
    """Places [s n 3] of points in each of s bodies, and by how much they leave it [s n] m."""
    found = [body_shape(tracks.positions, tracks.valid, turn=a, shift=b) for a, b in zip(turn, shift, strict=True)]
    return torch.stack([place for place, _ in found]), torch.stack([off for _, off in found])


def _support(residual: Tensor, tracks: Tracks, *, tolerance: float) -> Tensor:
    """[s] how much of the points' lives follows each of s motions."""
    return ((1 - (residual / tolerance).square()).clamp_min(0) * tracks.valid.sum(0)).sum(-1)


def _grown(tracks: Tracks, rows: Tensor, *, tolerance: float, config: RigidConfig) -> tuple[Tensor, Tensor, Tensor]:
    """The points [r] that hang together with `rows` and follow their motion, and that motion, refitted as it grows."""
    turn, shift = fit_motion(tracks.positions[:, rows], tracks.valid[:, rows])
    for _ in range(5):
        place, residual = _followed(tracks, turn=turn[None], shift=shift[None])
        follows = (residual[0] < tolerance).nonzero()[:, 0]
        if len(follows) < config.min_rows:
            return follows, turn, shift
        part = parts_of(place[0][follows], reach=config.reach)
        seeded = part[torch.isin(follows, rows)]
        rows = follows[part == (seeded if len(seeded) else part).mode().values]
        if len(rows) < config.min_rows:
            return rows, turn, shift
        turn, shift = fit_motion(tracks.positions[:, rows], tracks.valid[:, rows])
    return rows, turn, shift


def parts_of(points: Tensor, *, reach: float, num: int = 8) -> Tensor:
    """[n] the part of each point [n d], named by its lowest row: points nearer than `reach` m hang together."""
    if len(points) < 2:
        return torch.zeros(len(points), dtype=torch.int64)
    distance, index = nearest(points, points, num=min(num + 1, len(points)))
    first, which = ((distance < reach) & (index >= 0)).nonzero().unbind(1)
    return torch.from_numpy(connected_parts(first.numpy(), index[first, which].numpy(), num_rows=len(points)))


def _joined(tracks: Tracks, bodies: list[Body], *, tolerance: float, config: RigidConfig) -> list[Body]:
    """The bodies, those that touch and move as one together joined, the closest first."""
    while len(bodies) > 1:
        pairs = []
        for i in range(len(bodies)):
            for j in range(i):
                if _gap(tracks, bodies[i], other=bodies[j]) > config.reach:
                    continue
                rows = torch.cat([bodies[j].rows, bodies[i].rows])
                both = tracks.rows(rows)
                turn, shift = fit_motion(both.positions, both.valid)
                _, residual = body_shape(both.positions, both.valid, turn=turn, shift=shift)
                sides = residual.split([len(bodies[j].rows), len(bodies[i].rows)])
                off = max(float(side.median()) for side in sides)
                if off < tolerance:
                    pairs.append((off, j, i, Body(turn, shift, rows)))
        if not pairs:
            break
        _, j, i, body = min(pairs, key=lambda pair: pair[0])
        bodies = [*(b for k, b in enumerate(bodies) if k not in (i, j)), body]
    return sorted(bodies, key=lambda body: -len(body.rows))


def _parts_by_history(tracks: Tracks, body: Body, *, config: RigidConfig) -> list[Body]:
    """The body without what merely goes along with it, and each of those parts, with the same motion.

    A drawer that is being pulled moves as the hand does. Where its surface is new to the scene since then, no track
    shows that it did not before; but it hangs together with nothing of like colour that has gone all of the hand's
    path.
    """
    own = tracks.rows(body.rows)
    place, _ = body_shape(own.positions, own.valid, turn=body.turn, shift=body.shift)
    part = parts_of(
        torch.cat([place, colour_feature(own.colours) * (config.reach / config.colour)], -1), reach=config.reach
    )
    main, apart = torch.zeros(len(part), dtype=torch.bool), []
    for name in part.unique():
        inside = part == name
        if int(inside.sum()) < config.min_rows:
            main |= inside
            continue
        centre = body.turn @ place[inside].mean(0) + body.shift  # [t 3]
        path = centre.diff(dim=0).norm(dim=-1)
        there = own.valid[:, inside].double().mean(1)
        seen = torch.minimum(there[1:], there[:-1]) > 0.25
        share = float((path * seen).sum() / path.sum().clamp_min(1e-9))
        if share >= config.witnessed:
            main |= inside
        else:
            apart.append(inside)
    if not apart or int(main.sum()) < config.min_rows:
        return [body]
    return [Body(body.turn, body.shift, body.rows[inside]) for inside in (main, *apart)]


def _gap(tracks: Tracks, body: Body, *, other: Body) -> float:
    """Least distance in m between the points of two bodies, each where it is at the times that they share."""
    best = float("inf")
    for t in range(len(tracks.times)):
        a, b = (rows[tracks.valid[t, rows]] for rows in (body.rows, other.rows))
        if len(a) and len(b):
            distance, _ = nearest(tracks.positions[t, b], tracks.positions[t, a], num=1)
            best = min(best, float(distance.min()))
    return best
