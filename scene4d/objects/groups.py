"""Objects of a scene without labels: what moves rigidly together is one; what never moved is grouped by place and
colour."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from scene4d.errors import ShapeError
from scene4d.geometry.neighbours import nearest
from scene4d.geometry.rotation import pose_from_matrix, rigid_matrix
from scene4d.objects.membership import body_of_rows, voted
from scene4d.objects.rigid_bodies import Body, RigidConfig, rigid_bodies
from scene4d.objects.rigid_motion import body_shape, fit_motion
from scene4d.objects.robot_parts import RobotConfig, robot_bodies
from scene4d.objects.still_clusters import StillConfig, still_clusters
from scene4d.objects.tracks import Tracks, track_noise, tracks_of_scene
from scene4d.scene import Scene4D
from scene4d.tensor_struct import TensorStruct, shapes

BACKGROUND = -1
"""The number of rows that belong to no object: table, wall, floor, sky, specks, empty slots."""
OBJECT = "object"
"""Extra of Gaussians [n 1] that holds the number of each row's object."""
MOTION_ROWS = 400


@dataclass(frozen=True)
class GroupConfig:
    """How a scene is taken apart into objects."""

    rigid: RigidConfig = field(default_factory=RigidConfig)
    """What moved."""
    still: StillConfig = field(default_factory=StillConfig)
    """What did not."""
    robot: RobotConfig = field(default_factory=RobotConfig)
    """Which of it is the robot."""
    num_instants: int = 24
    """Most instants that are looked at, evenly over the scene."""
    moved: float = 0.005
    """Metres between two places of a row from which it has moved; six times the noise of the tracks is added."""
    least_purity: float = 0.4
    """Share of the rows next to its rows that a body has at least, to be one."""
    same_share: float = 0.25
    """Share of the rows of the smaller that two objects, found at different times, have in common to be the same."""


@dataclass(frozen=True)
class Objects(TensorStruct):
    """The objects of one scene.

    ids [n] int64 of the rows (persistent, as in Gaussians); number [n] int64 of each row's object, -1 = background.
    Of each object o: numbers [o] int64, the same for as long as the scene is observed; num_rows [o]; centre [o 3] m and
    extent [o 3] m along the world's axes, where it was last seen; colour [o 3] mean; moved [o] bool; robot [o] bool;
    confidence [o] in [0, 1]; motion [o t 7] from where it was at the first of times [t] s to where it is at each.
    Confidence: of the eight rows nearest to each of its rows the share that is in the same object, times the share of
    its rows that follow its motion. next_number: what the next new object is called.
    """

    ids: Tensor
    number: Tensor
    numbers: Tensor
    num_rows: Tensor
    centre: Tensor
    extent: Tensor
    colour: Tensor
    moved: Tensor
    robot: Tensor
    confidence: Tensor
    motion: Tensor
    times: Tensor
    next_number: int

    SHAPES = shapes(
        ids="n", number="n", numbers="o", num_rows="o", centre="o 3", extent="o 3", colour="o 3", moved="o", robot="o",
        confidence="o", motion="o t 7", times="t",
    )  # fmt: skip

    @property
    def batch_shape(self) -> tuple[int, ...]:
        """None: the objects are one scene's."""
        return ()

    @property
    def num_objects(self) -> int:
        """How many, without the background."""
        return len(self.numbers)

    def rows_of(self, number: int) -> Tensor:
        """Index [r] of an object's rows."""
        return (self.number == number).nonzero()[:, 0]

    def number_with_one_robot(self) -> Tensor:
        """[n] the numbers of the rows with all parts of the robot as one object: the lowest of their numbers."""
        parts = self.numbers[self.robot]
        return torch.where(torch.isin(self.number, parts), parts.min(), self.number) if len(parts) else self.number


def objects_of_scene(
    scene: Scene4D,
    *,
    config: GroupConfig = GroupConfig(),
    hands: Tensor | None = None,
    previous: Objects | None = None,
) -> Objects:
    """The objects of an unbatched scene, from its motion, observed or predicted; numbers are of the rows of scene.base.

    Args:
        hands: [t h 3] m, the places of the robots' hands at each of the scene's times, by which the robots are known;
            none is marked without.
        previous: the objects of the same scene seen for a shorter time, whose numbers are kept.
    Raises:
        ShapeError: batch axes, no instant, or hands that are not [t h 3].
    """
    count = len(scene.times)
    check_hands(hands, count)
    chosen = _instants(count, most=config.num_instants)
    tracks = tracks_of_scene(scene, times=scene.times[chosen])
    hands = None if hands is None else hands[chosen]
    return objects_of_tracks(tracks, config=config, hands=hands, previous=previous)


def objects_of_tracks(
    tracks: Tracks,
    *,
    config: GroupConfig = GroupConfig(),
    hands: Tensor | None = None,
    previous: Objects | None = None,
) -> Objects:
    """The objects among tracked points; arguments as those of `objects_of_scene`, `hands` at the tracks' times."""
    check_hands(hands, len(tracks.times))
    chosen = _instants(len(tracks.times), most=config.num_instants)
    places = [] if hands is None else list(hands[chosen].double().unbind(1))
    tracks = tracks.instants(chosen)
    order = torch.argsort(tracks.ids, stable=True)  # so that the order of the rows does not count
    found = _grouped(tracks.rows(order), config=config, hands=places)
    number = torch.empty_like(order)
    number[order] = found.label
    found = replace(found, label=number)
    return _described(tracks, found, config=config, previous=previous)


@dataclass(frozen=True)
class _Grouping:
    """Labels of the rows [n], -1 = background, and of each label: whether it moved, and whether it is the robot."""

    label: Tensor
    moved: list[bool]
    robot: list[bool]
    tolerance: float


def with_object_numbers(scene: Scene4D, objects: Objects) -> Scene4D:
    """The scene with the number of each row's object in base.extras["object"] [n 1]."""
    number = objects.number.to(scene.base.means)[:, None]
    return scene.replace(base=scene.base.replace(extras={**scene.base.extras, OBJECT: number}))


def check_hands(hands: Tensor | None, count: int) -> None:
    """Refuse places of hands that are not [t h 3] for `count` instants."""
    if hands is not None and (hands.ndim != 3 or len(hands) != count or hands.shape[-1] != 3):
        raise ShapeError("are no places", field="hands", found=tuple(hands.shape), expected=f"[{count} h 3]")


def _instants(count: int, *, most: int) -> Tensor:
    return torch.linspace(0, count - 1, min(count, most), dtype=torch.float64).round().long()


def _grouped(tracks: Tracks, *, config: GroupConfig, hands: list[Tensor]) -> _Grouping:
    """Bodies among the rows that moved; clusters among those that did not."""
    solid = tracks.solid & tracks.valid.any(0)
    moved = solid & (_range(tracks) > config.moved + 6 * track_noise(tracks))
    index = moved.nonzero()[:, 0]
    bodies, tolerance = rigid_bodies(tracks.rows(index), config=config.rigid)
    bodies = [replace(body, rows=index[body.rows]) for body in bodies]
    body = body_of_rows(tracks, bodies, moved=moved, tolerance=tolerance, config=config.rigid)
    body = voted(tracks, body, config=config.rigid)
    body = _without_scattered(tracks, body, solid=solid, config=config)
    bodies = _bodies_of(tracks, body, known=bodies)
    found = [robot_bodies(tracks, bodies, hand=hand, config=config.robot) for hand in hands]
    robot = [any(marks) for marks in zip(*found, strict=True)] if hands else [False] * len(bodies)
    label = torch.full((tracks.num_rows,), BACKGROUND)
    for number, each in enumerate(bodies):
        label[each.rows] = number
    rest = (solid & (body == 0)).nonzero()[:, 0]
    cluster, place = still_clusters(tracks.rows(rest), config=config.still)
    label[rest] = torch.where(cluster >= 0, cluster + len(bodies), BACKGROUND)
    count = int(cluster.max()) + 1 if len(cluster) else 0
    still_robot = [False] * count
    for hand, moves in zip(hands, found, strict=True):
        if not any(moves):
            near = _at_hand(tracks.rows(rest), cluster, place=place, hand=hand[-1], radius=config.robot.hand_radius)
            still_robot = [mark or number in near for number, mark in enumerate(still_robot)]
    return _Grouping(label, [True] * len(bodies) + [False] * count, robot + still_robot, tolerance)


def _without_scattered(tracks: Tracks, body: Tensor, *, solid: Tensor, config: GroupConfig) -> Tensor:
    """Bodies [n] without those of few rows, or whose rows lie singly among others: what tracks got wrong is at rest."""
    alike = _purity(tracks, body)
    for number in body[body > 0].unique().tolist():
        inside = (body == number) & solid
        if int(inside.sum()) < config.rigid.min_rows or float(alike[inside].mean()) < config.least_purity:
            body = torch.where(body == number, 0, body)
    return body


def _at_hand(tracks: Tracks, cluster: Tensor, *, place: Tensor, hand: Tensor, radius: float) -> list[int]:
    """The objects of the cluster by place that is nearest to the hand, within `radius` m."""
    rows = ((place >= 0) & tracks.valid[-1]).nonzero()[:, 0]
    if not len(rows):
        return []
    distance = (tracks.positions[-1, rows] - hand).norm(dim=-1)
    if float(distance.min()) > radius:
        return []
    return cluster[place == place[rows[distance.argmin()]]].unique().tolist()


def _range(tracks: Tracks) -> Tensor:
    """[n] m between the least and the greatest coordinates of each row's places."""
    valid = tracks.valid[..., None]
    low = torch.where(valid, tracks.positions, torch.inf).amin(0)
    high = torch.where(valid, tracks.positions, -torch.inf).amax(0)
    return torch.where(tracks.valid.sum(0) > 1, (high - low).norm(dim=-1), 0.0)


def _bodies_of(tracks: Tracks, label: Tensor, *, known: list[Body]) -> list[Body]:
    """Bodies with all their rows; those found last, among rows that fit no other, get a motion of their own."""
    bodies = []
    for number in label[label > 0].unique().tolist():
        rows = (label == number).nonzero()[:, 0]
        if number <= len(known):
            bodies.append(replace(known[number - 1], rows=rows))
            continue
        turn, shift = fit_motion(tracks.positions[:, rows], tracks.valid[:, rows])
        bodies.append(Body(turn, shift, rows))
    return bodies


def _described(tracks: Tracks, found: _Grouping, *, config: GroupConfig, previous: Objects | None) -> Objects:
    """The facts about each object; the largest has the lowest number, but for those that had one before."""
    sizes = torch.bincount(found.label[found.label >= 0], minlength=len(found.moved))
    first = [int(tracks.ids[found.label == k].min()) if sizes[k] else 0 for k in range(len(sizes))]
    order = sorted((k for k in range(len(sizes)) if sizes[k]), key=lambda k: (-int(sizes[k]), first[k]))
    numbers, next_number = _numbers(tracks.ids, found.label, order=order, previous=previous, config=config)
    purity = _purity(tracks, found.label)
    number, facts = torch.full_like(found.label, BACKGROUND), []
    for k, own in zip(order, numbers, strict=True):
        rows = (found.label == k).nonzero()[:, 0]
        number[rows] = own
        facts.append(_facts(tracks, rows, moved=found.moved[k], purity=purity, tolerance=found.tolerance))
    column = lambda name, shape: torch.stack([f[name] for f in facts]) if facts else torch.zeros(0, *shape)
    return Objects(
        ids=tracks.ids,
        number=number,
        numbers=torch.tensor(numbers, dtype=torch.int64),
        num_rows=sizes[order].long(),
        centre=column("centre", (3,)),
        extent=column("extent", (3,)),
        colour=column("colour", (3,)),
        moved=torch.tensor([found.moved[k] for k in order], dtype=torch.bool),
        robot=torch.tensor([found.robot[k] for k in order], dtype=torch.bool),
        confidence=column("confidence", ()),
        motion=column("motion", (len(tracks.times), 7)),
        times=tracks.times,
        next_number=next_number,
    )


def _facts(tracks: Tracks, rows: Tensor, *, moved: bool, purity: Tensor, tolerance: float) -> dict[str, Tensor]:
    """What is known of the object that some rows make."""
    own = tracks.rows(rows)
    present = own.valid[-1] if bool(own.valid[-1].any()) else torch.ones(len(rows), dtype=torch.bool)
    places = own.last[present]
    poses = torch.tensor([1.0, 0, 0, 0, 0, 0, 0], dtype=torch.float64).repeat(len(tracks.times), 1)
    follows = torch.ones(())
    if moved:
        some = own
        if len(rows) > MOTION_ROWS:
            some = own.rows(own.valid.sum(0).argsort(descending=True, stable=True)[:MOTION_ROWS])
        turn, shift = fit_motion(some.positions, some.valid)
        poses = pose_from_matrix(rigid_matrix(turn, shift))
        _, off = body_shape(own.positions, own.valid, turn=turn, shift=shift)
        follows = (off < 2 * tolerance).double().mean()
    return {
        "centre": places.median(0).values.float(),
        "extent": (places.quantile(0.99, 0) - places.quantile(0.01, 0)).float(),
        "colour": own.colours.mean(0).float(),
        "confidence": (purity[rows].mean() * follows).float(),
        "motion": poses.float(),
    }


def _purity(tracks: Tracks, label: Tensor) -> Tensor:
    """[n] the share of each row's eight nearest rows, where they were last, that is in the same object."""
    places, count = tracks.last, min(9, tracks.num_rows)
    if count < 2:
        return torch.ones(tracks.num_rows)
    _, index = nearest(places, places, num=count)
    return (label[index[:, 1:]] == label[:, None]).double().mean(1)


def _numbers(
    ids: Tensor, label: Tensor, *, order: list[int], previous: Objects | None, config: GroupConfig
) -> tuple[list[int], int]:
    """A number for each of the labels in `order`: that of the previous object most of whose rows it has, or a new
    one."""
    if previous is None:
        return list(range(len(order))), len(order)
    kept: dict[int, int] = {}
    known = dict(zip(previous.ids.tolist(), previous.number.tolist(), strict=True))
    before = torch.tensor([known.get(i, BACKGROUND) for i in ids.tolist()], dtype=torch.int64)
    shared = []
    for k in order:
        both, counts = before[(label == k) & (before >= 0)].unique(return_counts=True)
        of_k = int(((label == k) & torch.isin(ids, previous.ids)).sum())
        for number, count in zip(both.tolist(), counts.tolist(), strict=True):
            smaller = min(of_k, int((before == number).sum()))
            if count >= config.same_share * smaller:
                shared.append((-count, number, k))
    for _, number, k in sorted(shared):
        if k not in kept and number not in kept.values():
            kept[k] = number
    fresh = iter(range(previous.next_number, previous.next_number + len(order)))
    numbers = [kept[k] if k in kept else next(fresh) for k in order]
    return numbers, max([previous.next_number, *(n + 1 for n in numbers)])
