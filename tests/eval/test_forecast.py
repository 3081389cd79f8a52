"""The forecast table against an analytic world whose future is known exactly."""

from __future__ import annotations

import functools

import pytest
import torch
from box_scene import Box, cast_boxes

from scene4d.eval.forecast.forecast_table import COPY, KEYS, ORACLE, forecast_table
from scene4d.eval.forecast.forecasters.baselines import ConstantVelocity, CopyLast, ExactFlow, scene_of_velocities
from scene4d.eval.forecast.forecasters.past_stream import PastMemory, PastStream, background_of
from scene4d.eval.forecast.ground_truth import exact_scene, moving_pixels, never_seen_pixels
from scene4d.eval.forecast.window_scores import ForecastEvalConfig, evaluate_forecast, labels_of, past_of
from scene4d.gaussians.edit import by_id
from scene4d.geometry.camera import intrinsics_from_fov, look_at
from scene4d.lift.stream.stream import StreamConfig
from scene4d.types import Cameras, Episode, Frames
from scene4d.world.evaluated import ForecastQuestion

STEP = 0.012
CONFIG = ForecastEvalConfig(
    tasks=("slide",), seeds=(0,), starts=(3, 4), horizons=(1, 4), control=4, size=40, novel=("front",)
)
PLAIN = StreamConfig(polish=0, polish_first=0)
"""No sharpening: truth is compared with what was measured, and asking leaves no trace."""
CAMERA_CENTRES = {"left": (-0.6, -0.7, 0.6), "right": (0.6, -0.7, 0.6), "front": (0.0, -1.0, 0.5)}


@functools.cache
def views_at(t: int, size: tuple[int, int]) -> dict[str, Frames]:
    """Frames of every camera at frame t."""
    K, x = intrinsics_from_fov(0.7, width=size[0], height=size[1]), -0.15 + STEP * t
    boxes = (Box((x, -0.05, 0.0), (x + 0.12, 0.07, 0.12)),)
    views = {}
    for name, eye in CAMERA_CENTRES.items():
        viewmat = look_at(torch.tensor(eye), torch.tensor([-0.05, 0.0, 0.05]))
        cameras = Cameras(viewmats=viewmat, Ks=K, width=size[0], height=size[1])
        # So long a wavelength that each segment has one colour, carried along with it.
        views[name] = cast_boxes(cameras, boxes=boxes, wavelength=50.0)
    return views


@functools.cache
def slide(task="slide", *, seed=0, noise=0.0, num_frames=10, size=(40, 40), cameras=()) -> Episode:
    """A box that slides along x by 12 mm a frame on the ground; actions count the frames."""
    frames = [views_at(t, size) for t in range(num_frames)]
    poses = torch.tensor([1.0, 0, 0, 0, 0, 0, 0]).repeat(num_frames, 2, 1)
    poses[:, 1, 4] = STEP * torch.arange(num_frames)
    return Episode(
        views={name: Frames.stack([f[name] for f in frames]) for name in CAMERA_CENTRES},
        times=0.025 * torch.arange(num_frames, dtype=torch.float64),
        valid=torch.ones(num_frames, dtype=torch.bool),
        actions=torch.arange(1.0, num_frames + 1)[:, None].expand(num_frames, 4),
        proprio=torch.zeros(num_frames, 4),
        segment_poses=poses,
        info={"task": task, "seed": seed, "source": "analytic"},
    )


class Oracle:
    """Knows the future; checks what it is shown."""

    name = "ours"
    uses_actions = True

    def __init__(self, stream):
        self.stream = stream

    def forecast(self, question):
        past, actions = question.past, question.actions
        now = past.times.shape[0] - 1
        assert set(past.views) == {"left", "right"} and past.segment_poses is None
        assert not past.actions[-1].any() and all(not f.extras for f in past.views.values())
        episode = slide(num_frames=now + 1 + len(actions))
        memory = self.stream.remember(past).memory
        x = -0.15 + STEP * now
        on_box = (memory.means[:, 2] > 0.004) & ((memory.means[:, 0] - x - 0.06).abs() < 0.064)
        velocity = on_box[:, None] * torch.tensor([STEP, 0.0, 0.0])
        scene = scene_of_velocities(memory, velocity, past=past, num_steps=len(actions))
        # Under other actions than those to come, it shows the start: whoever shuffles them must see the difference.
        ahead = now + torch.tensor(question.steps) * int(actions[0, 0] == now + 1)
        return {n: episode.views[n][ahead].replace(extras={}) for n in question.cameras}, scene


@pytest.fixture(autouse=True, scope="module")
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def result():
    torch.manual_seed(0)
    stream = PastStream(config=PLAIN)
    return evaluate_forecast(
        [Oracle(stream), CopyLast(stream), ConstantVelocity(stream)],
        config=CONFIG,
        past_stream=stream,
        record=slide,
        oracles=[lambda e, m=m: ExactFlow(stream, episode=e, memory=m) for m in (False, True)],
    )


def test_keys_are_the_documented_ones(result):
    assert list(result["horizon"]) == ["1", "4"] and result["windows"] == 2
    others = {"copy_last", "constant_velocity", "exact_flow", "exact_flow_memory"}
    for row in result["horizon"].values():
        assert set(row) == {*KEYS, *others, "median_fill"} and set(row["median_fill"]) == {"psnr_unseen"}
        assert all(set(row[name]) == set(KEYS) for name in others)


def test_truth_scores_as_truth(result):
    for row in result["horizon"].values():
        assert row["psnr"] > 100 and row["psnr_moving"] > 100 and row["psnr_novel"] > 100
        assert row["ssim"] > 0.999 and row["depth_absrel"] < 1e-4
        assert row["flow_epe_moving"] < 2e-3 and row["flow_epe_static"] < 1e-3
        assert row["chamfer"] < 1e-4 and row["chamfer_moving"] < 1e-4


def test_copying_errs_by_the_motion(result):
    for horizon, row in result["horizon"].items():
        copy = row["copy_last"]
        assert copy["flow_epe_moving"] == pytest.approx(STEP * int(horizon), rel=1e-3)
        assert copy["flow_epe_static"] == 0.0
        assert copy["psnr_moving"] < copy["psnr"] < 100


def test_exact_motion_needs_a_memory(result):
    """What the box laid bare is in the memory, not in the last frames; and the memory rides with the truth."""
    row = result["horizon"]["4"]
    full, bare, copy = row["exact_flow_memory"], row["exact_flow"], row["copy_last"]
    assert full["flow_epe_moving"] < 1e-3 and full["flow_epe_static"] < 1e-4
    assert full["psnr_moving"] > bare["psnr_moving"] > copy["psnr_moving"]
    assert full["psnr"] > copy["psnr"] + 1 and full["chamfer_moving"] < copy["chamfer_moving"]
    assert full["gap_closed"] == 1.0 and copy["gap_closed"] == 0.0 and row["gap_closed_moving"] > 1.0


def test_other_actions_cost_those_who_listen(result):
    row = result["horizon"]["4"]
    assert row["controllability"] > 50 and row["copy_last"]["controllability"] is None
    assert result["horizon"]["1"]["controllability"] is None


def test_labels_change_nothing_but_what_the_scores_use():
    episode = slide()
    labelled, plain = PastStream(config=PLAIN), PastStream(config=PLAIN)
    labels = labels_of(episode, 4, inputs=labelled.inputs)
    one, two = labelled.remember(past_of(episode, 4), labels=labels), plain.remember(past_of(episode, 4))
    assert torch.equal(one.memory.means, two.memory.means) and torch.equal(one.memory.ids, two.memory.ids)
    assert one.memory.extras.keys() == two.memory.extras.keys() and "segments" not in one.scene.base.extras
    on_box = one.segments == 1
    assert two.segments is None and bool(on_box.any()) and bool((one.memory.means[on_box, 2] > -0.01).all())


def test_rows_ride_on_their_segments_turns_included():
    episode = slide()
    turn = torch.tensor([2**-0.5, 0, 0, 2**-0.5])  # a quarter about z
    poses = episode.segment_poses.clone()
    poses[5, 1, :4] = turn
    rows = PastStream(config=PLAIN).remember(past_of(episode, 3)).memory.pick(slice(0, 2))
    rows = rows.replace(means=torch.tensor([[0.1, 0.0, 0.05], [0.1, 0.0, 0.05]]))
    scene = exact_scene(rows, torch.tensor([1, -1]), episode=episode.replace(segment_poses=poses), start=3, num_steps=2)
    at = poses[3, 1, 4:]  # the box's own place then
    expected = poses[5, 1, 4:] + torch.tensor([-(0.0 - at[1]), 0.1 - at[0], 0.05 - at[2]])
    moved = scene.at(float(scene.times[-1])).means
    torch.testing.assert_close(moved[0], expected, atol=1e-5, rtol=0)
    assert torch.equal(moved[1], rows.means[1])


def test_what_was_never_seen_is_hidden_from_every_past_frame():
    """To the right camera alone the box's far side was hidden, its near side was not."""
    episode = slide(size=(120, 120))
    unseen = never_seen_pixels(episode, "left", start=4, stop=8, inputs=("right",))
    normals = episode.views["left"].extras["normals"][8]
    hidden, open_side = normals[..., 0] < -0.9, normals[..., 1] < -0.9
    assert unseen[hidden].float().mean() > 0.6  # all but the rim, which may have been seen
    assert not unseen[open_side].any()
    # To both cameras only ground was hidden that the box had always covered and has now laid bare.
    bare = never_seen_pixels(episode, "left", start=4, stop=8, inputs=("left", "right"))
    assert bare.any() and not episode.views["left"].extras["segments"][8][bare].any()


def test_shares_and_gains_compare_means():
    window = lambda psnr, moving, unseen: {"psnr": psnr, "psnr_moving": moving, "psnr_unseen": unseen}
    rows = {"ours": (24.0, 15.0, 14.0), COPY: (20.0, 11.0, 10.0), ORACLE: (25.0, 19.0, float("nan"))}
    scores = [
        {(name, 8): window(*values) for name, values in rows.items()} | {("median_fill", 8): {"psnr_unseen": 11.5}}
    ]
    row = forecast_table([scores], list(rows), horizons=(8,))["8"]
    assert row["gap_closed"] == 0.8 and row["gap_closed_moving"] == 0.5 and row["gain"] == 4.0
    assert row["gain_unseen"] == 2.5  # over the better of the two
    assert row[ORACLE]["gain_unseen"] is None


def test_intervals_draw_episodes_again():
    """Of equal episodes nothing varies; of two kinds the share hangs on how many of each were drawn."""
    window = lambda ours: {
        ("ours", 8): {"psnr": ours},
        (COPY, 8): {"psnr": 20.0},
        (ORACLE, 8): {"psnr": 30.0},
        ("median_fill", 8): {},
    }
    table = lambda values: forecast_table([[window(v)] * 3 for v in values], ["ours", COPY, ORACLE], horizons=(8,))["8"]
    assert table([25.0] * 12)["interval"]["gap_closed"] == [0.5, 0.5] and "interval" not in table([25.0])
    mixed = table([22.0] * 6 + [28.0] * 6)["interval"]
    assert 0.2 <= mixed["gap_closed"][0] < 0.5 < mixed["gap_closed"][1] <= 0.8
    assert mixed["psnr"][0] == pytest.approx(20 + 10 * mixed["gap_closed"][0], abs=0.01)
    assert "flow_epe_moving" not in mixed, "what was never measured has no interval"


def test_without_exact_motion_the_rest_is_still_scored(result):
    """A real recording: pictures and depth are compared as ever, what truth alone knows is None."""
    stream = PastStream(config=PLAIN)
    got = evaluate_forecast(
        [CopyLast(stream), ConstantVelocity(stream)],
        config=CONFIG,
        past_stream=stream,
        record=lambda *a, **k: slide(*a, **k).replace(segment_poses=None),
        oracles=[lambda e: ExactFlow(stream, episode=e, memory=True)],
    )["horizon"]["4"]
    known = result["horizon"]["4"]["copy_last"]
    assert set(got) >= {*KEYS, "constant_velocity", "median_fill"}
    for key in ("psnr", "ssim", "depth_absrel", "chamfer", "psnr_novel"):
        assert got[key] == pytest.approx(known[key], abs=1e-4)
    for key in ("psnr_moving", "flow_epe_moving", "chamfer_moving", "psnr_unseen", "controllability", "gap_closed"):
        assert got[key] is None


def test_constant_velocity_goes_on_with_the_tracked_flow():
    """With a perfect track of the box, going on at constant velocity is the truth."""
    past = past_of(slide(), 3)

    class PerfectTrack(PastStream):
        def remember(self, past):
            known = super().remember(past)
            x = -0.15 + STEP * 3
            on_box = (known.memory.means[:, 2] > 0.004) & ((known.memory.means[:, 0] - x - 0.06).abs() < 0.064)
            velocity = on_box[:, None] * torch.tensor([STEP, 0.0, 0.0])
            before = known.memory.replace(means=known.memory.means - velocity)
            track = scene_of_velocities(before, velocity, past=past, num_steps=1)
            return PastMemory(known.memory, track, known.background)

    cameras = {"left": slide().views["left"].cameras[4:8]}
    question = ForecastQuestion(past, torch.zeros(4, 4), cameras=cameras)
    _, scene = ConstantVelocity(PerfectTrack(config=PLAIN)).forecast(question)
    flow, valid = scene.flow(float(scene.times[0]), float(scene.times[4]))
    moved = flow.norm(dim=-1)
    assert bool(valid.all()) and bool((moved > 0).any())
    torch.testing.assert_close(moved[moved > 0], torch.full_like(moved[moved > 0], 4 * STEP), atol=1e-5, rtol=0)


def test_moving_pixels_are_the_union_of_both_places():
    episode = slide()
    mask = moving_pixels(episode, "left", start=2, stop=6, threshold=0.005)
    box = lambda t: episode.views["left"].extras["segments"][t, ..., 0] == 1
    assert torch.equal(mask, box(2) | box(6))
    assert not moving_pixels(episode, "left", start=2, stop=2, threshold=0.005).any()


def test_stream_goes_on_as_if_it_had_seen_all_at_once():
    episode = slide()
    gradual, at_once = PastStream(config=PLAIN), PastStream(config=PLAIN)
    gradual.remember(past_of(episode, 2))
    one, two = gradual.remember(past_of(episode, 4)), at_once.remember(past_of(episode, 4))
    assert torch.equal(one.memory.means, two.memory.means) and torch.equal(one.memory.ids, two.memory.ids)


def test_background_is_the_colour_of_nothing():
    frames = slide().views["left"][0]
    depth = frames.depth.clone()
    depth[:10] = 0
    rgb = frames.rgb.clone()
    rgb[:10] = torch.tensor([0.2, 0.4, 0.6])
    torch.testing.assert_close(background_of(frames.replace(depth=depth, rgb=rgb)), torch.tensor([0.2, 0.4, 0.6]))


def test_rows_are_found_by_id():
    values, ids = torch.tensor([[1.0], [2.0], [3.0]]), torch.tensor([5, 3, 9])
    rows, found = by_id(values, ids, wanted=torch.tensor([9, 4, 5, -1]))
    assert rows[:, 0].tolist() == [3.0, 0.0, 1.0, 0.0] and found.tolist() == [True, False, True, False]
