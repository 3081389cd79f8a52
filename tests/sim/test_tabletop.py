"""The table's pictures, captions, hidden fields and experts must be one consistent world."""

import math

import pytest
import torch

pytest.importorskip("mujoco")

from scene4d.errors import ConfigError, EnvError
from scene4d.geometry.camera import unproject
from scene4d.geometry.rotation import apply_pose, invert_pose
from scene4d.sim import rig
from scene4d.sim.recorder import record_with
from scene4d.sim.tabletop.layout import BLOCK_M, PLATE_HEIGHT_M, PLATE_RADIUS_M
from scene4d.sim.tabletop.tabletop import TabletopSim

PUT, SWAPPED = "tabletop/put-red-block-on-blue-plate", "tabletop/put-blue-block-on-red-plate"
TWO = "tabletop/gripper+pusher/put-red-block-on-blue-plate-and-push-green-block-onto-yellow-plate"
TASKS = (
    "gripper/put-red-block-on-blue-plate",
    "suction/put-yellow-block-on-yellow-plate",
    "gripper/put-green-block-beside-purple-plate",
    "suction/put-red-block-beside-blue-plate",
    "gripper/put-blue-block-in-drawer",
    "suction/put-purple-block-in-drawer",
    "gripper/stack-red-block-on-blue-block",
    "suction/stack-green-block-on-yellow-block",
    "pusher/push-red-block-onto-blue-plate",
    "pusher/push-blue-block-beside-green-plate",
    "pusher/push-red-block-to-left-side",
    "pusher/push-red-block-to-right-side",
    "pusher/push-yellow-block-to-middle",
    *(f"{robot}/{verb}-drawer" for robot in ("gripper", "suction", "pusher") for verb in ("open", "close")),
    "gripper/open-drawer-then-put-red-block-in-drawer",
    "suction/put-red-block-in-drawer-then-close-drawer",
    "suction+suction/put-red-block-in-drawer",
    "pusher+pusher/push-red-block-onto-blue-plate-and-push-green-block-onto-yellow-plate",
    "gripper+suction+lamp/put-red-block-on-blue-plate-and-stack-green-block-on-yellow-block",
    "gripper+pusher/put-red-block-on-blue-plate-and-open-drawer",
)


def _solves(task, *, seed, num_frames=130):
    sim = TabletopSim(task, seed=seed, cameras=())
    return any(sim.step(sim.expert_action())[1] for _ in range(num_frames))


@pytest.mark.parametrize("task", TASKS)
def test_the_expert_solves_every_task(task):
    assert sum(_solves(f"tabletop/{task}", seed=seed) for seed in range(20, 25)) >= 4


def test_doing_nothing_solves_nothing():
    for task in TASKS:
        sim = TabletopSim(f"tabletop/{task}", seed=3, cameras=())
        idle = torch.zeros(len(sim.action_spec))
        assert not any(sim.step(idle)[1] for _ in range(10)), task


@pytest.fixture(scope="module")
def carried():
    """The episode's first moment, and one with the red block in the air."""
    with TabletopSim(PUT, seed=1, size=(128, 128), cameras=rig.CAMERAS) as sim:
        before, poses = sim.observe(), sim.segment_poses()
        for _ in range(34):
            sim.step(sim.expert_action())
        yield sim, (before, poses), (sim.observe(), sim.segment_poses())


def _seen(frames, poses, *, segment):
    """Points [n 3] m of a segment that a camera sees, in the segment's own frame."""
    points = unproject(frames.depth.double(), frames.cameras.viewmats.double(), Ks=frames.cameras.Ks.double())
    points = points[frames.extras["segments"][..., 0] == segment]
    return apply_pose(invert_pose(poses[segment].double()).expand(len(points), 7), points)


def test_what_is_seen_lies_on_the_objects(carried):
    sim, *moments = carried
    names, seen = sim.segment_names, set()
    for frames, poses in moments:
        for view in frames.values():
            for name in sim.layout.blocks:
                points = _seen(view, poses, segment=names.index(name)).abs()
                if len(points):
                    assert (points.amax(-1) - BLOCK_M / 2).abs().max() < 0.001
                    seen.add(name)
            for name in sim.layout.plates:
                points = _seen(view, poses, segment=names.index(name))
                if len(points):
                    assert (points[:, 2] - PLATE_HEIGHT_M).clamp_min(0).max() < 0.0005
                    assert points[:, :2].norm(dim=-1).max() < PLATE_RADIUS_M + 0.001
    assert seen == set(sim.layout.blocks)
    red = names.index("red block")
    assert moments[1][1][red, 6] - moments[0][1][red, 6] > 0.05  # it was lifted
    assert torch.equal(moments[0][1][0], torch.tensor([1.0, 0, 0, 0, 0, 0, 0]))


def test_segments_are_the_objects_and_the_parts_of_the_robot(carried):
    sim, (frames, _), _ = carried
    names = sim.segment_names
    assert {"world", "drawer", "hand", "finger_left", "upper_arm", *sim.layout.blocks, *sim.layout.plates} <= set(names)
    assert {names[k] for k in sim.object_segments} == {"drawer", *sim.layout.blocks}
    ids = torch.cat([view.extras["segments"].flatten() for view in frames.values()]).unique().tolist()
    assert {names[k] for k in ids if k >= 0} >= {"red block", "blue plate", "drawer", "hand", "forearm", "world"}
    view = frames["left"]
    sky = view.extras["segments"][..., 0] < 0
    assert torch.equal(sky, view.depth == 0) and 0.05 < sky.float().mean() < 0.5
    assert torch.allclose(view.rgb[sky], torch.tensor(rig.SKY_RGB))


def test_colours_differ_clearly(carried):
    sim, (frames, _), _ = carried
    view, means = frames["top"], {}
    for name in (*sim.layout.blocks, *sim.layout.plates):
        own = view.extras["segments"][..., 0] == sim.segment_names.index(name)
        if own.sum() > 5:
            means[name] = view.rgb[own].mean(0)
    assert len(means) >= 4
    for name, color in means.items():
        for other, another in means.items():
            assert name.split()[0] == other.split()[0] or (color - another).norm() > 0.25, (name, other)


def test_hidden_fields_are_felt_but_not_seen():
    episodes = []
    for hidden_seed in (1, 2):
        with TabletopSim(PUT, seed=4, hidden_seed=hidden_seed, size=(48, 48)) as sim:
            first = sim.observe()
            notes = sim.notes()
            poses = []
            for _ in range(40):
                sim.step(sim.expert_action())
                poses.append(sim.proprio())
            assert sim._model.body("red block").mass[0] == notes["mass_kg"]["red block"]
            episodes.append((first, notes, torch.stack(poses)))
    (one, notes, moved), (other, others, moved_otherwise) = episodes
    assert notes["mass_kg"] != others["mass_kg"] and notes["heat_c"] != others["heat_c"]
    for name, frames in one.items():
        assert torch.equal(frames.rgb, other[name].rgb) and torch.equal(frames.depth, other[name].depth)
    assert not torch.equal(moved, moved_otherwise)  # a heavy block pulls the hand down


def test_swapped_captions_share_their_first_scene():
    for robot in ("", "suction/"):
        pair = [TabletopSim(task.replace("/", f"/{robot}"), seed=7, size=(48, 48)) for task in (PUT, SWAPPED)]
        with pair[0] as one, pair[1] as other:
            assert one.text == "put the red block on the blue plate" and other.text != one.text
            assert one.layout == other.layout
            assert torch.equal(one.observe()["front"].rgb, other.observe()["front"].rgb)
            assert not torch.equal(one.expert_action(), other.expert_action())
    stacked = [
        TabletopSim(f"tabletop/stack-{a}-block-on-{b}-block", cameras=()) for a, b in (("red", "blue"), ("blue", "red"))
    ]
    assert stacked[0].layout == stacked[1].layout


def test_colours_left_open_change_with_the_seed():
    sim = TabletopSim("tabletop/put-any-block-on-any-plate", seed=0, cameras=())
    texts = set()
    for seed in range(6):
        sim.reset(seed)
        instruction = sim.table.instructions[0]
        assert instruction.object in sim.layout.blocks and instruction.place in sim.layout.plates
        assert sim.notes()["phrases"] == [instruction.phrases]
        texts.add(sim.text)
        same = TabletopSim(sim.table.name, seed=seed, cameras=())
        assert same.layout == sim.layout and same.text == sim.text
    assert len(texts) > 3


def test_what_a_hand_touches_is_named():
    sim = TabletopSim("tabletop/suction/put-red-block-on-blue-plate", seed=1, cameras=())
    assert sim.touched == []
    for _ in range(30):
        sim.step(sim.expert_action())
    assert sim.touched == ["red block"]


def test_other_robots_meet_the_same_scene():
    layouts = [
        TabletopSim(f"tabletop/{robot}/open-drawer", seed=2, cameras=()).layout
        for robot in ("gripper", "suction", "pusher")
    ]
    assert layouts[0] == layouts[1] == layouts[2]


def test_two_robots_have_names_of_their_own_and_are_driven_apart():
    sim = TabletopSim(TWO, seed=5, cameras=())
    names = [row["name"] for row in sim.action_spec]
    assert names == [f"left_{n}" for n in ("dx", "dy", "dz", "gripper")] + [
        f"right_{n}" for n in ("dx", "dy", "dz", "drz")
    ]
    assert [row["name"] for row in sim.proprio_spec][3::4] == ["left_gripper_opening", "right_hand_yaw"]
    start = sim.proprio()
    for _ in range(5):
        sim.step(torch.tensor([0, 0, 0, 0, 0.5, 0, 0, 1.0]))
    shift = sim.proprio() - start
    assert shift[:3].abs().max() < 0.002 and 0.02 < shift[4] < 0.06 and 0.2 < shift[7] < 0.6
    assert {"left_hand", "right_hand", "left_finger_left", "right_forearm"} <= set(sim.segment_names)


def test_actions_do_what_their_names_say():
    sim = TabletopSim(PUT, seed=0, cameras=())
    start = sim.proprio()
    for _ in range(6):
        reward, success = sim.step(torch.tensor([1.0, 0, 0, 1.0]))
    assert isinstance(reward, float) and success is False
    shift = sim.proprio() - start
    assert 0.05 < shift[0] < 0.13 and shift[1:3].abs().max() < 0.01 and shift[3] < -0.05
    assert sim.time == pytest.approx(6 / 40)
    closed = sim.proprio()[3]
    for _ in range(6):
        sim.step(torch.zeros(4))
    assert abs(sim.proprio()[3] - closed) < 0.005  # left alone, the fingers stay
    assert sim.proprio()[0] - start[0] == pytest.approx(0.12, abs=0.003)


def test_the_lamp_moves_by_itself_and_only_where_it_is_named():
    name = "tabletop/gripper+lamp/put-red-block-on-blue-plate"
    with TabletopSim(name, seed=3, size=(64, 64), cameras=("front",)) as sim:
        lamp, before, first = sim.segment_names.index("lamp"), sim.segment_poses(), sim.observe()["front"]
        idle = torch.zeros(4)
        for _ in range(12):
            sim.step(idle)
        after, second = sim.segment_poses(), sim.observe()["front"]
        assert lamp not in sim.object_segments
    assert not torch.allclose(before[lamp], after[lamp], atol=0.05)
    table = (first.extras["segments"] == 0)[..., 0] & (second.extras["segments"] == 0)[..., 0]
    assert (first.rgb - second.rgb)[table].abs().max() > 0.02  # its light moves with it
    still = TabletopSim(PUT, seed=3, cameras=())
    assert "lamp" not in still.segment_names and still.layout.blocks == sim.layout.blocks


def test_a_seed_fixes_every_bit():
    options = {"noise": 0.3, "num_frames": 5}
    episodes = []
    for used in (False, True):
        task = "tabletop/suction/put-red-block-on-blue-plate"
        with TabletopSim(task, seed=9, size=(32, 32), cameras=("left", "gripper")) as sim:
            for _ in range(3 * used):
                sim.step(torch.ones(4))
            episodes.append(record_with(sim, seed=5, **options))
    first, second = episodes
    for name in ("left", "gripper"):
        assert torch.equal(first.views[name].rgb, second.views[name].rgb)
        assert torch.equal(first.views[name].depth, second.views[name].depth)
    for name in ("actions", "proprio", "rewards", "success", "segment_poses", "times"):
        assert torch.equal(getattr(first, name), getattr(second, name)), name
    assert first.info == second.info and first.info["task"] == "put the red block on the blue plate"
    assert first.info["phrases"] == [{"verb": "put", "object": "red block", "relation": "on", "place": "blue plate"}]


def test_bad_actions_and_long_episodes_are_refused():
    sim = TabletopSim(PUT, cameras=())
    for action in (torch.zeros(3), torch.tensor([0, 0, math.nan, 0])):
        with pytest.raises(EnvError, match="action"):
            sim.step(action)
    sim.num_frames = 250
    with pytest.raises(EnvError, match="over"):
        sim.step(torch.zeros(4))
    with pytest.raises(ConfigError, match="side"):
        TabletopSim(PUT, cameras=("left", "side"))
