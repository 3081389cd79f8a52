"""Objects found without labels: laws of grouping by motion, place and colour, on scenes whose truth is known."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from scene4d.errors import ShapeError
from scene4d.eval.metrics.clustering import adjusted_rand_index
from scene4d.geometry.rotation import apply_pose, quat_from_rotvec
from scene4d.geometry.sh import sh_from_rgb
from scene4d.objects.groups import Objects, objects_of_scene, objects_of_tracks
from scene4d.objects.tracks import Tracks, tracks_of_points
from scene4d.scene import Motion, Scene4D
from scene4d.types import Gaussians

TIMES = torch.arange(16, dtype=torch.float64) * 0.1
RED, GREEN, BLUE, WOOD = (0.7, 0.1, 0.1), (0.2, 0.7, 0.2), (0.1, 0.2, 0.8), (0.6, 0.5, 0.4)


@pytest.fixture(autouse=True)
def one_thread():
    """Many small steps: threads that wait for one another would take most of the time."""
    count = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(count)


def box(centre, half, *, spacing: float = 0.012) -> Tensor:
    """Points [n 3] on the six sides of a box."""
    sides = []
    for axis in range(3):
        a, b = (k for k in range(3) if k != axis)
        grid = [torch.linspace(-half[k], half[k], max(2, round(2 * half[k] / spacing) + 1)).double() for k in (a, b)]
        u, v = (x.reshape(-1) for x in torch.meshgrid(*grid, indexing="ij"))
        for sign in (-1.0, 1.0):
            side = torch.zeros(len(u), 3, dtype=torch.float64)
            side[:, axis], side[:, a], side[:, b] = sign * half[axis], u, v
            sides.append(side)
    return torch.cat(sides).unique(dim=0) + torch.tensor(centre, dtype=torch.float64)


def sheet(width: float, length: float, *, height: float = 0.0, spacing: float = 0.02) -> Tensor:
    """Points [n 3] of a table top round the origin."""
    x, y = torch.meshgrid(
        torch.arange(-width / 2, width / 2, spacing).double(), torch.arange(-length / 2, length / 2, spacing).double(),
        indexing="ij",
    )  # fmt: skip
    return torch.stack([x.reshape(-1), y.reshape(-1), torch.full_like(x, height).reshape(-1)], -1)


def sliding(points: Tensor, step: tuple[float, float, float], *, start: int = 0, num: int = len(TIMES)) -> Tensor:
    """[t n 3]: at rest until instant `start`, then `step` m an instant."""
    gone = (torch.arange(num, dtype=torch.float64) - start).clamp_min(0)
    return points + gone[:, None, None] * torch.tensor(step, dtype=torch.float64)


def turning(
    points: Tensor, rate: float, *, axis=(0.0, 0.0, 1.0), about=(0.0, 0.0, 0.0), num: int = len(TIMES)
) -> Tensor:
    """[t n 3]: turned by `rate` rad an instant about an axis through `about`."""
    angle = rate * torch.arange(num, dtype=torch.float64)[:, None] * torch.tensor(axis, dtype=torch.float64)
    centre = torch.tensor(about, dtype=torch.float64)
    poses = torch.cat([quat_from_rotvec(angle), torch.zeros(num, 3, dtype=torch.float64)], -1)
    return apply_pose(poses[:, None], points - centre) + centre


def world(
    *bodies: tuple[Tensor, tuple[float, float, float]], noise: float = 0.0, seed: int = 0
) -> tuple[Tracks, Tensor]:
    """Tracks of bodies (places [t n 3], colour), and the body of each row."""
    positions = torch.cat([places for places, _ in bodies], 1)
    shake = torch.randn(positions.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    colours = torch.cat([torch.tensor(c).double().expand(places.shape[1], 3) for places, c in bodies])
    truth = torch.cat([torch.full((places.shape[1],), k) for k, (places, _) in enumerate(bodies)])
    return tracks_of_points(positions + noise * shake, times=TIMES[: len(positions)], colours=colours), truth


def still(points: Tensor) -> Tensor:
    return points.expand(len(TIMES), -1, 3)


def two_boxes(noise: float = 0.0) -> tuple[Tracks, Tensor]:
    """Two boxes of one colour that slide past one another, side by side, over a table that stands."""
    return world(
        (still(sheet(1.0, 0.8)), WOOD),
        (sliding(box((-0.1, 0.0, 0.05), (0.05, 0.05, 0.05)), (0.008, 0.0, 0.0)), RED),
        (sliding(box((0.1, 0.11, 0.05), (0.05, 0.05, 0.05)), (-0.008, 0.0, 0.0)), RED),
        noise=noise,
    )


def agreement(objects: Objects, truth: Tensor) -> float:
    return adjusted_rand_index(objects.number, truth)


def test_two_boxes_that_move_apart_are_two_and_the_table_is_none():
    tracks, truth = two_boxes()
    objects = objects_of_tracks(tracks)
    assert objects.num_objects == 2 and objects.moved.all() and not objects.robot.any()
    assert agreement(objects, truth) > 0.98
    assert (objects.number[truth == 0] == -1).all()
    for k, step in ((1, 0.008), (2, -0.008)):
        (index,) = (objects.numbers == objects.number[truth == k].mode().values).nonzero()[0].tolist()
        went = objects.motion[index, -1, 4:] - objects.motion[index, 0, 4:]
        torch.testing.assert_close(went, torch.tensor([step * 15, 0.0, 0.0]), atol=1e-3, rtol=0)
        assert objects.extent[index].tolist() == pytest.approx([0.1, 0.1, 0.1], abs=0.01)
        assert objects.colour[index].tolist() == pytest.approx(RED, abs=1e-5)
        last = tracks.positions[-1, truth == k].mean(0)
        assert objects.centre[index].tolist() == pytest.approx(last.tolist(), abs=0.01)
        assert objects.confidence[index] > 0.8


def test_a_hinge_makes_two_where_one_side_stands_and_where_both_go():
    plate = lambda x: box((x, 0.0, 0.1), (0.1, 0.004, 0.1))
    hinge = (0.0, 0.0, 0.0)
    tracks, truth = world((still(plate(-0.11)), BLUE), (turning(plate(0.11), 0.06, about=hinge), BLUE))
    objects = objects_of_tracks(tracks)
    assert objects.num_objects == 2 and sorted(objects.moved.tolist()) == [False, True]
    assert agreement(objects, truth) > 0.95
    apart = (turning(plate(-0.11), -0.05, about=hinge), BLUE), (turning(plate(0.11), 0.05, about=hinge), BLUE)
    tracks, truth = world(*apart)
    objects = objects_of_tracks(tracks)
    assert objects.num_objects == 2 and objects.moved.all() and agreement(objects, truth) > 0.95


@pytest.mark.parametrize("seed", [0, 1])
def test_a_millimetre_of_noise_does_not_split(seed):
    turned = turning(box((0.0, 0.0, 0.1), (0.1, 0.06, 0.08)), 0.05, axis=(0.3, 0.5, 0.8))
    tracks, truth = world((turned, GREEN), noise=0.001, seed=seed)
    objects = objects_of_tracks(tracks)
    assert objects.num_objects == 1 and objects.moved.all() and float((objects.number == 0).double().mean()) > 0.98
    tracks, truth = two_boxes(noise=0.001)
    objects = objects_of_tracks(tracks)
    assert objects.num_objects == 2 and agreement(objects, truth) > 0.9


def test_the_order_of_the_rows_does_not_count():
    tracks, _ = two_boxes()
    mixed = torch.randperm(tracks.num_rows, generator=torch.Generator().manual_seed(3))
    objects, other = objects_of_tracks(tracks), objects_of_tracks(tracks.rows(mixed))
    assert (other.number == objects.number[mixed]).all() and (other.ids == objects.ids[mixed]).all()
    torch.testing.assert_close(other.motion, objects.motion)


def test_where_the_world_lies_does_not_count():
    tracks, truth = two_boxes()
    turn = quat_from_rotvec(torch.tensor([0.4, -0.9, 0.3], dtype=torch.float64))
    moved = apply_pose(torch.cat([turn, torch.tensor([2.0, -1.0, 0.5])]), tracks.positions)
    objects, other = objects_of_tracks(tracks), objects_of_tracks(tracks.replace(positions=moved))
    assert other.num_objects == objects.num_objects and agreement(other, truth) > 0.98
    assert float((other.number == objects.number).double().mean()) > 0.99


def test_what_never_moved_is_grouped_by_place_and_colour():
    bodies = [
        (sheet(1.2, 0.8), WOOD),
        (box((-0.3, 0.0, 0.06), (0.05, 0.05, 0.05)), RED),
        (box((0.2, 0.1, 0.06), (0.05, 0.05, 0.05)), RED),
        (box((0.31, 0.1, 0.06), (0.05, 0.05, 0.05)), BLUE),  # touches the one before
    ]
    tracks, truth = world(*((points[None], colour) for points, colour in bodies))
    objects = objects_of_tracks(tracks)
    assert objects.num_objects == 3 and not objects.moved.any() and agreement(objects, truth) > 0.98
    assert (objects.number[truth == 0] == -1).all()
    assert torch.equal(objects.motion[:, 0], torch.tensor([1.0, 0, 0, 0, 0, 0, 0]).expand(3, 7))


def test_numbers_persist_when_more_is_seen():
    first = (sliding(box((-0.3, 0.0, 0.05), (0.05, 0.05, 0.05)), (0.008, 0, 0), num=24), RED)
    second = (sliding(box((0.1, 0.0, 0.05), (0.06, 0.06, 0.06)), (0.0, 0.01, 0), start=18, num=24), GREEN)
    times = torch.arange(24) * 0.1
    rows = torch.cat([first[0], second[0]], 1)
    colours = torch.cat([torch.tensor(c).expand(x.shape[1], 3) for x, c in (first, second)])
    everything = tracks_of_points(rows, times=times, colours=colours)
    early = objects_of_tracks(everything.instants(torch.arange(12)))
    assert early.num_objects == 2 and int(early.moved.sum()) == 1
    # New rows of a third object come in between, and half of those of the first have ended.
    third = box((0.0, -0.3, 0.05), (0.1, 0.1, 0.05)).expand(24, -1, 3)
    late = tracks_of_points(
        torch.cat([rows, third], 1), times=times,
        ids=torch.cat([torch.arange(rows.shape[1]), 5000 + torch.arange(third.shape[1])]),
        colours=torch.cat([colours, torch.tensor(BLUE).expand(third.shape[1], 3)]),
    )  # fmt: skip
    num_first = first[0].shape[1]
    kept = torch.ones(late.num_rows, dtype=torch.bool)
    kept[: num_first // 2] = False
    objects = objects_of_tracks(late.rows(kept), previous=early)
    assert objects.num_objects == 3 and int(objects.moved.sum()) == 2
    before = dict(zip(early.ids.tolist(), early.number.tolist(), strict=True))
    after = dict(zip(objects.ids.tolist(), objects.number.tolist(), strict=True))
    for row in (num_first - 1, num_first + 5):
        assert after[row] == before[row]
    assert after[5000] not in early.numbers.tolist() and objects.next_number == early.next_number + 1


def robot_and_block() -> tuple[Tracks, Tensor, Tensor]:
    """A hand and its forearm that go to a block and push it on: tracks, the body of each row, the hand's places."""
    path = torch.arange(16).double()[:, None, None] * torch.tensor([0.02, 0.0, 0.0])
    hand = box((-0.3, 0.0, 0.06), (0.03, 0.03, 0.05)) + path
    # The forearm swings about its far end while its near end stays with the hand.
    arm = turning(box((-0.3, 0.0, 0.25), (0.02, 0.02, 0.13)), 0.01, axis=(0, 1.0, 0), about=(-0.3, 0, 0.4)) + path
    block = sliding(box((-0.08, 0.0, 0.05), (0.03, 0.04, 0.04)), (0.02, 0.0, 0.0), start=8)
    tracks, truth = world((still(sheet(1.2, 0.8)), WOOD), (hand, RED), (arm, RED), (block, GREEN))
    return tracks, truth, (torch.tensor([-0.3, 0.0, 0.06]) + path[:, 0])[:, None]


def test_what_follows_the_hand_is_the_robot_and_what_it_pushes_is_not():
    tracks, truth, hands = robot_and_block()
    objects = objects_of_tracks(tracks, hands=hands)
    parts = set(objects.numbers[objects.robot].tolist())
    name = lambda k: int(objects.number[truth == k].mode().values)
    assert {name(1), name(2)} == parts and name(3) not in parts and name(3) >= 0
    one = objects.number_with_one_robot()
    assert len(one[(truth == 1) | (truth == 2)].unique()) == 1 and agreement(objects, truth) > 0.95
    nothing = objects_of_tracks(tracks)
    assert not nothing.robot.any() and torch.equal(nothing.number_with_one_robot(), nothing.number)


def test_what_came_into_being_later_and_goes_along_is_an_object_of_its_own():
    """A drawer's side is new when it is pulled: no track shows that it did not always move as the hand does."""
    tracks, truth, hands = robot_and_block()
    valid = tracks.valid.clone()
    valid[:9, truth == 3] = False
    objects = objects_of_tracks(tracks.replace(valid=valid), hands=hands)
    drawer = int(objects.number[truth == 3].mode().values)
    assert drawer >= 0 and drawer not in objects.number[truth == 1] and drawer not in objects.numbers[objects.robot]


def test_what_is_gripped_is_no_robot_though_it_carries_the_hand_where_its_new_surface_is_seen():
    """A few of the block's rows rested at the start and ended; all others are new since it is carried."""
    tracks, truth, hands = robot_and_block()
    valid = tracks.valid.clone()
    block = (truth == 3).nonzero()[:, 0]
    valid[:9, block[20:]] = False
    valid[9:, block[:20]] = False
    objects = objects_of_tracks(tracks.replace(valid=valid), hands=hands)
    late = objects.number[block[20:]].mode().values
    assert int(late) >= 0 and int(late) not in objects.numbers[objects.robot].tolist()
    assert int(objects.number[truth == 1].mode().values) in objects.numbers[objects.robot].tolist()


def test_a_hand_that_has_not_moved_marks_what_is_at_it():
    tracks, truth, hands = robot_and_block()
    objects = objects_of_tracks(tracks.instants(torch.tensor([0])), hands=hands[:1])
    assert set(objects.numbers[objects.robot].tolist()) == set(objects.number[(truth == 1) | (truth == 2)].tolist())


def scene_of(tracks: Tracks, poses: Tensor, body: Tensor) -> Scene4D:
    """A scene whose rows ride on anchors, one a body: poses [t m 7], body [n]."""
    num = tracks.num_rows
    base = Gaussians(
        means=tracks.positions[0].float(),
        quats=torch.tensor([1.0, 0, 0, 0]).repeat(num, 1),
        scales=torch.full((num, 3), 0.005),
        opacities=torch.full((num,), 0.9),
        sh=sh_from_rgb(tracks.colours.float()),
    )
    moves = (poses[-1, :, 4:].norm(dim=-1) > 0)[body]
    motion = Motion(
        anchors=poses[0, :, 4:].float(), world_from_rest=poses.float(), skin_index=body[:, None],
        skin_weights=moves[:, None].float(),
    )  # fmt: skip
    alive = torch.tensor([[0.0, math.inf]]).repeat(num, 1)
    return Scene4D(
        base=base, motion=motion, alive=alive, times=TIMES, observed=torch.ones(len(TIMES), dtype=torch.bool)
    )


def test_a_scene_gives_what_its_tracks_give():
    tracks, truth = two_boxes()
    poses = torch.zeros(len(TIMES), 3, 7, dtype=torch.float64)
    poses[..., 0] = 1
    poses[:, 1, 4], poses[:, 2, 4] = torch.arange(16) * 0.008, torch.arange(16) * -0.008
    scene = scene_of(tracks, poses, truth)
    objects = objects_of_scene(scene)
    assert agreement(objects, truth) > 0.98 and torch.equal(objects.ids, scene.base.ids)
    ended = scene.replace(base=scene.base.replace(ids=torch.where(truth == 1, -1, scene.base.ids)))
    assert (objects_of_scene(ended).number[truth == 1] == -1).all(), "empty slots belong to nothing"


def test_points_that_are_not_known_all_the_time():
    tracks, truth = two_boxes()
    generator = torch.Generator().manual_seed(1)
    gaps = torch.rand(tracks.valid.shape, generator=generator) < 0.2
    positions = torch.where(gaps[..., None], torch.nan, tracks.positions)
    objects = objects_of_tracks(tracks_of_points(positions, times=TIMES, colours=tracks.colours))
    assert objects.num_objects == 2 and agreement(objects, truth) > 0.95


@pytest.mark.parametrize("num", [0, 1, 5])
def test_too_little_is_no_object(num):
    objects = objects_of_tracks(tracks_of_points(torch.rand(3, num, 3).double(), times=TIMES[:3]))
    assert objects.num_objects == 0 and objects.number.tolist() == [-1] * num and objects.motion.shape == (0, 3, 7)


def test_what_does_not_fit_is_refused():
    tracks, _, hands = robot_and_block()
    with pytest.raises(ShapeError, match="hands"):
        objects_of_tracks(tracks, hands=hands[:3])
    with pytest.raises(ShapeError, match="hands"):
        objects_of_tracks(tracks, hands=hands[:, 0])
    scene = scene_of(
        tracks, torch.tensor([1.0, 0, 0, 0, 0, 0, 0]).repeat(16, 1, 1), torch.zeros(tracks.num_rows).long()
    )
    with pytest.raises(ShapeError, match="one scene"):
        objects_of_scene(Scene4D.stack([scene, scene]))
