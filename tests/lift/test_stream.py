"""The stream against exact truth: motion, identity, sharpness, no ghosts, and a past that is never revised."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from turning_box import TurningBox

from scene4d.errors import DepthError, GaussianError, ShapeError, TimestampError
from scene4d.lift.stream.stream import SceneStream, StreamConfig
from scene4d.render.render import render

BOX = TurningBox()
NUM_FRAMES = 14
STEP = 0.1


def _stream(box: TurningBox, num_frames: int, config: StreamConfig | None = None, watch=None) -> SceneStream:
    stream = SceneStream(config)
    for t in range(num_frames):
        stream.update(box.frames(t), time=STEP * t)
        if watch is not None:
            watch(t, stream)
    return stream


def _psnr(a, b) -> float:
    return float(-10 * torch.log10(((a - b) ** 2).mean()))


@pytest.fixture(scope="module")
def watched():
    """The stream after all frames, with what it returned meanwhile."""
    returned = []

    def watch(t, stream):
        returned.append((stream.gaussians(), stream.scene()))

    return _stream(BOX, NUM_FRAMES, watch=watch), returned


def test_flow_is_the_motion_of_the_box(watched):
    _, returned = watched
    errors, kept = [], []
    for t in range(2, NUM_FRAMES - 1):
        now = returned[t][0]
        flow, valid = returned[-1][1].flow(STEP * t, STEP * (t + 1))
        row = {int(i): r for r, i in enumerate(returned[-1][1].base.ids)}
        index = torch.tensor([row[int(i)] for i in now.ids])
        on_box = (now.extras["segments"][:, 0] == 1) & (BOX.clearance(now.means, t) < 0.01)
        truth = BOX.truth(now.means, t, t + 1) - now.means
        kept.append(valid[index][on_box].float().mean())
        chosen = on_box & valid[index]
        errors.append((flow[index] - truth)[chosen].norm(dim=-1))
    assert float(torch.cat(errors).mean()) < 0.003  # the box moves 13 mm and more a frame
    assert float(torch.stack(kept).mean()) > 0.9


def test_the_table_stands_still(watched):
    _, returned = watched
    scene = returned[-1][1]
    flow, valid = scene.flow(STEP, STEP * (NUM_FRAMES - 1))
    table = valid & (scene.base.extras["segments"][:, 0] == 0)
    assert float((flow[table].norm(dim=-1) > 0.002).float().mean()) < 0.01


def test_the_present_is_sharp_from_its_own_views(watched):
    _, returned = watched
    for t in (0, 5, NUM_FRAMES - 1):
        frames = BOX.frames(t)
        assert _psnr(render(returned[t][0], frames.cameras).rgb, frames.rgb) > 29
        # What is saved is what is shown: the scene holds the refined rows.
        assert _psnr(render(returned[t][1].at(STEP * t), frames.cameras).rgb, frames.rgb) > 28


def test_asking_changes_nothing(watched):
    """Streams that were asked after every frame, and only at the end, say the same to the bit."""
    asked, returned = watched
    silent = _stream(BOX, 3)
    for a, b in ((silent.gaussians(), returned[2][0]), (silent.scene().base, returned[2][1].base)):
        assert torch.equal(a.ids, b.ids) and torch.equal(a.sh, b.sh) and torch.equal(a.means, b.means)
    again = asked.gaussians()
    assert again is asked.gaussians()
    assert torch.equal(again.sh, returned[-1][0].sh)


def test_no_ghosts(watched):
    _, returned = watched
    for t in (3, NUM_FRAMES - 1):
        clearance = BOX.clearance(returned[t][0].means, t)
        assert float((clearance > 0.03).float().mean()) < 0.005


def test_hidden_background_is_remembered(watched):
    _, returned = watched
    first, last = returned[0][0], returned[-1][0]
    table = first.ids[first.extras["segments"][:, 0] == 0]
    assert float(torch.isin(table, last.ids).float().mean()) > 0.97


def test_ids_are_unique_and_match_the_scene(watched):
    _, returned = watched
    for now, scene in (returned[4], returned[-1]):
        assert len(now.ids.unique()) == len(now.ids)
        assert len(scene.base.ids.unique()) == len(scene.base.ids)
        assert torch.isin(now.ids, scene.base.ids).all()


def test_the_past_is_never_revised(watched):
    _, returned = watched
    late = returned[-1][1]
    for k in (1, 4, 9):
        early = returned[k][1]
        now = STEP * k
        born = late.alive[:, 0] <= now + 1e-9
        assert torch.equal(late.base.ids[born], early.base.ids)
        assert torch.equal(late.alive[born][:, 0], early.alive[:, 0])
        ended = early.alive[:, 1] < now
        assert torch.equal(late.alive[born][ended], early.alive[ended])
        assert bool((late.alive[born][~ended][:, 1] >= now - 1e-9).all())
        num_anchors = early.motion.anchors.shape[0]
        assert torch.equal(late.motion.world_from_rest[: k + 1, :num_anchors], early.motion.world_from_rest)
        for t in range(k + 1):
            a, b = early.at(STEP * t), late.at(STEP * t).pick(born)
            # Living rows look, and lie within one and a half pixels (of 10 to 25 mm), as they were measured last.
            torch.testing.assert_close(a.means, b.means, atol=0.04, rtol=0)
            torch.testing.assert_close(a.means[ended], b.means[ended], atol=1e-6, rtol=0)
            assert torch.equal(a.opacities > 0, b.opacities > 0)
            assert torch.equal(a.opacities[ended], b.opacities[ended]) and torch.equal(a.sh[ended], b.sh[ended])


def test_nothing_moves_in_a_still_scene():
    still = dataclasses.replace(BOX, slide=(0.0, 0.0, 0.0), turn=0.0)
    stream = _stream(still, 4, StreamConfig(polish_first=2))
    scene = stream.scene()
    assert scene.base.num_gaussians == 2 * 64 * 64
    assert not bool((scene.motion.skin_weights != 0).any())
    assert bool(torch.isinf(scene.alive[:, 1]).all())


def test_memory_is_bounded():
    stream = _stream(BOX, 6, StreamConfig(max_gaussians=7000, polish_first=0, polish=0))
    assert len(stream.memory) <= 7000
    assert stream.gaussians().num_gaussians <= 7000


def test_same_frames_same_scene():
    config = StreamConfig(polish_first=1, polish=0)
    first, second = (_stream(BOX, 4, config).scene() for _ in range(2))
    assert torch.equal(first.motion.world_from_rest, second.motion.world_from_rest)
    assert torch.equal(first.base.means, second.base.means)


def test_bad_input_is_refused():
    stream = SceneStream(StreamConfig(polish_first=0))
    with pytest.raises(GaussianError):
        stream.gaussians()
    frames = BOX.frames(0)
    with pytest.raises(DepthError):
        stream.update(frames.replace(depth=None), time=0.0)
    with pytest.raises(DepthError):
        stream.update(frames.replace(depth=torch.zeros_like(frames.depth)), time=0.0)
    with pytest.raises(ShapeError):
        stream.update(frames[0], time=0.0)
    stream.update(frames, time=0.0)
    with pytest.raises(TimestampError):
        stream.update(frames, time=0.0)


def test_an_arm_in_the_simulator():
    pytest.importorskip("metaworld", reason="needs the sim extra")
    from scene4d.geometry.rotation import apply_pose, compose_pose, invert_pose
    from scene4d.sim.recorder import record_episode

    episode = record_episode(
        "drawer-open-v3", seed=11, noise=0.1, num_frames=9, size=(64, 64), cameras=("left", "right")
    )
    frames, stream = episode.stacked(["left", "right"]), SceneStream()
    for t in range(8):
        stream.update(frames[t], time=float(episode.times[t]))
    now = stream.gaussians()
    drawn = render(now, frames[7].cameras)
    assert _psnr(drawn.rgb, frames[7].rgb) > 29
    stream.update(frames[8], time=float(episode.times[8]))
    scene = stream.scene()
    flow, valid = scene.flow(float(episode.times[7]), float(episode.times[8]))
    rows = torch.searchsorted(scene.base.ids, now.ids)
    segments = now.extras["segments"][:, 0]
    poses = episode.segment_poses.double()
    moved = compose_pose(poses[8], invert_pose(poses[7]))[segments.clamp_min(0)]
    truth = apply_pose(moved, now.means.double()) - now.means
    moving = (truth.norm(dim=-1) > 0.005) & (segments > 0) & valid[rows]
    error = (flow[rows] - truth).norm(dim=-1)
    assert int(moving.sum()) > 100
    assert float(error[moving].mean()) < 0.35 * float(truth[moving].norm(dim=-1).mean())
    static = (segments == 0) & valid[rows]
    assert float(error[static].mean()) < 0.001
