"""Windows: one rate, chosen cameras, one layout, masks for what is missing, and geometry that stays true."""

import numpy as np
import pytest
import torch
from floor_scene import worst_paint
from loader_recordings import path_of, recording

from scene4d.data.detect import open_recordings
from scene4d.data.load.augment import AugmentConfig, recoloured
from scene4d.data.load.clip import equal_clips
from scene4d.data.load.lifted_cache import LiftedScenes
from scene4d.data.load.shards import mixed_seed, split_recordings
from scene4d.data.load.window_config import WindowConfig
from scene4d.data.load.window_set import WindowSet
from scene4d.data.timeline.frame_table import TableRecording
from scene4d.errors import ConfigError, DataFormatError
from scene4d.geometry.camera import unproject
from scene4d.lift.rgbd.unproject import lift_frames

SMALL = {"size": (20, 15), "scaling": "none"}


def windows(*recordings, **settings):
    return WindowSet(list(recordings), WindowConfig(**{**SMALL, **settings}))


RATES = [(10.0, 10.0), (30.0, 10.0), (15.0, 10.0), (24.0, 7.0), (29.97, 10.0)]


@pytest.mark.parametrize("fps, rate", RATES)
def test_deltas_lead_from_state_to_state_at_any_rate(fps, rate):
    """A delta action is what the state changes by: that must hold after resampling, to rounding."""
    ws = windows(recording(num=40, fps=fps), context=1, horizon=4, rate=rate)
    clip = ws[0]
    moved = clip.proprio[1:] - clip.proprio[:-1]
    assert clip.valid.all() and clip.action_valid.all()
    assert torch.allclose(clip.actions[:-1], moved, atol=1e-6)
    assert clip.times.diff().sub(1 / rate).abs().max() < 1e-9


@pytest.mark.parametrize("fps, rate", RATES)
def test_speeds_are_averaged_and_targets_are_the_next_state(fps, rate):
    speeds = windows(recording(num=40, fps=fps, kind="speeds"), horizon=4, rate=rate)[1]
    frames = recording(num=40, fps=fps).num_frames
    shown = np.array([np.abs(np.arange(frames) / fps - t).round(9).argmin() for t in speeds.times.numpy()]) / fps
    expected = np.diff(path_of(shown), axis=0) / np.diff(shown)[:, None]
    assert np.allclose(speeds.actions[:-1].numpy(), expected, atol=1e-5)
    targets = windows(recording(num=40, fps=fps, kind="targets"), horizon=4, rate=rate)[1]
    assert torch.allclose(targets.actions[:-1], targets.proprio[1:], atol=1e-7)


def test_uneven_times_take_the_nearest_frame_and_mask_gaps():
    times = np.cumsum([0, 0.1, 0.13, 0.07, 0.1, 0.1, 0.9, 0.1, 0.11, 0.1, 0.1])
    ws = windows(recording(times=times, fps=10.0), horizon=19)
    clip = ws[0]
    grid = np.arange(20) / 10
    off = np.abs(times[None] - grid[:, None])
    nearest = off.argmin(1)
    known = grid <= times[-1] + 1e-9
    assert np.allclose(clip.proprio[known].numpy()[off.min(1)[known] <= 0.05],
                       path_of(times)[nearest][known][off.min(1)[known] <= 0.05], atol=1e-6)  # fmt: skip
    assert (clip.valid.numpy() == (known & (off.min(1) <= 0.0501))).all()
    assert not clip.valid.all() and (clip.proprio[~clip.valid] == 0).all()


def test_recordings_of_any_rate_share_the_slowest_and_none_is_invented():
    fast, slow = recording("fast", num=31, fps=30.0), recording("slow", num=11, fps=10.0)
    ws = windows(fast, slow, horizon=4)
    assert ws.rate == 10.0 and len(ws) == 2 * (11 - 4)
    a, b = ws[0], ws[7]
    assert torch.allclose(a.proprio, b.proprio, atol=1e-6) and torch.allclose(a.actions, b.actions, atol=1e-6)
    with pytest.raises(ConfigError, match="slower") as caught:
        windows(fast, slow, rate=30.0)
    assert caught.value.file == "/recordings/slow" and "10" in caught.value.fix


def test_numbers_without_meaning_are_not_combined_by_guess():
    vague = recording(num=31, fps=30.0)
    vague.info["action_spec"] = [{"name": f"action.{i}", "unit": None} for i in range(3)]
    with pytest.raises(ConfigError, match="combine") as caught:
        windows(vague, rate=10.0)
    assert "walker" in caught.value.line() and caught.value.file == "/recordings/floor"
    moved = path_of(np.array([0.0, 0.9]))
    summed = windows(vague, rate=10.0, combine="sum")[0].actions.sum(0)
    assert np.allclose(summed.numpy(), moved[1] - moved[0], atol=1e-6)


def test_cameras_by_name_by_other_name_and_by_position():
    one, two = recording("one"), recording("two", cameras=("front", "right"))
    ws = windows(one, two, cameras=("left|front", "#1"))
    assert ws.slots == ("left|front", "#1")
    a, b = ws[0], ws[len(ws) - 1]
    assert a.has_view.all() and b.has_view.all()
    assert torch.equal(a.frames.rgb[0], ws[4].frames.rgb[0]), "both are the same two cameras under other names"


def test_a_missing_camera_is_refused_with_the_difference_or_masked():
    """FAULTS row 30."""
    sets = [recording("one"), recording("two", cameras=("left", "top"))]
    with pytest.raises(DataFormatError, match=r"lacks right; has top.*left, right.*missing_cameras") as caught:
        windows(*sets)
    assert caught.value.file == "/recordings/two" and caught.value.field == "cameras" and "1 of 2" in str(caught.value)
    ws = windows(*sets, cameras=("left", "right"), missing_cameras="mask")
    whole, lacking = ws[0], ws[4]
    assert whole.has_view.tolist() == [True, True] and lacking.has_view.tolist() == [True, False]
    empty = lacking.frames[:, 1]
    assert not empty.rgb.any() and not empty.depth.any() and not empty.alpha.any()
    assert lacking.frames[:, 0].alpha.all() and lacking.has_depth.tolist() == [True, False]
    with pytest.raises(DataFormatError, match="none of the cameras"):
        windows(*sets, cameras=("bottom",), missing_cameras="mask")


def test_depth_that_is_not_there_is_masked():
    clip = windows(recording(depth=False))[0]
    assert not clip.has_depth.any() and clip.has_view.all() and not clip.frames.depth.any()


@pytest.mark.parametrize("edges", ["inside", "over"])
def test_short_recordings_are_padded_and_masked_left_out_or_refused(edges):
    """FAULTS row 51."""
    short, long = recording("short", num=4), recording("long", num=12)
    settings = {"context": 3, "horizon": 5, "edges": edges}
    ws = windows(short, long, **settings)
    clip = ws[0]
    inside = (clip.step + torch.arange(8) >= 0) & (clip.step + torch.arange(8) < 4)
    assert torch.equal(clip.valid, inside) and 0 < clip.valid.sum() <= 4
    assert (clip.actions[~inside] == 0).all() and not clip.action_valid[~inside].any()
    assert (clip.proprio[~inside] == 0).all() and not clip.proprio_valid[~inside].any()
    assert clip.frames.rgb.isfinite().all()
    skipped = windows(short, long, short="skip", **settings)
    assert len(skipped) < len(ws) and all(int(skipped[i].recording) == 1 for i in range(len(skipped)))
    with pytest.raises(DataFormatError, match=r"recording 0 is shorter.*4 steps") as caught:
        windows(short, long, short="error", **settings)
    assert caught.value.file == "/recordings/short" and caught.value.field == "horizon"
    with pytest.raises(DataFormatError, match="no windows"):
        windows(short, short="skip", **settings)


def test_over_the_edges_every_step_with_a_future_is_now_once():
    ws = windows(recording(num=9), context=3, horizon=4, edges="over")
    now = [int(ws[i].step) + 2 for i in range(len(ws))]
    assert now == list(range(8))
    assert not ws[0].valid[:2].any() and ws[0].valid[2]


def test_all_windows_are_whole_and_different():
    ws = windows(recording(num=20), recording("other", num=9), context=2, horizon=3, stride=2)
    seen = {(int(c.recording), int(c.step)) for c in (ws[i] for i in range(len(ws)))}
    assert len(seen) == len(ws) == 8 + 3 and all(ws[i].valid.all() for i in range(len(ws)))
    with pytest.raises(IndexError):
        ws[len(ws)]


def test_other_columns_are_refused_with_the_difference_or_laid_out_in_a_union():
    """FAULTS row 49, layouts."""
    sets = [recording("one"), recording("two", kind="speeds")]
    with pytest.raises(ConfigError, match=r"has speed_x.*lacks dx.*union") as caught:
        windows(*sets)
    assert caught.value.file == "/recordings/two" and caught.value.field == "actions"
    ws = windows(*sets, layout="union")
    assert [c.name for c in ws.actions] == ["dx", "dy", "dz", "speed_x", "speed_y", "speed_z"]
    one, two = ws[0], ws[4]
    assert one.action_valid[0].tolist() == [True] * 3 + [False] * 3
    assert two.action_valid[0].tolist() == [False] * 3 + [True] * 3
    assert not one.actions[:, 3:].any() and not two.actions[:, :3].any()
    assert torch.allclose(one.actions[:, :3] * 10, two.actions[:, 3:], atol=1e-5)
    # Bare numbers of another robot are other columns, however many there are.
    for k, r in enumerate(sets):
        r.info.update(action_spec=[{"name": str(i), "unit": None} for i in range(3)], robot=f"robot{k}")
    with pytest.raises(ConfigError, match="robot1"):
        windows(*sets)


def test_more_columns_than_names_are_refused():
    bad = recording()
    bad.info["action_spec"] = bad.info["action_spec"][:2]
    with pytest.raises(ConfigError, match="another number of columns") as caught:
        windows(bad)[0]
    assert (caught.value.found, caught.value.expected, caught.value.exit_code) == (3, 2, 2)


SHAPES = [((40, 30), "stretch"), ((28, 28), "stretch"), ((28, 28), "crop"), ((40, 20), "crop"), ((20, 30), "crop")]


@pytest.mark.parametrize("size, fit", SHAPES)
@pytest.mark.parametrize("shift", [0.0, 0.15])
def test_cut_and_shifted_pictures_still_show_what_their_cameras_look_at(size, fit, shift):
    """The law that augmentation must keep: every pixel has the colour and depth of the floor where its ray meets it."""
    source = recording(num=2, sizes={"left": (120, 90), "right": (100, 100)}.items())
    ws = windows(source, size=size, fit=fit, horizon=1, augment=AugmentConfig(shift=shift))
    clips = [ws.clip(0, epoch=e) for e in range(2 + (shift > 0))]
    for clip in clips:
        assert clip.valid.all() and clip.frames.rgb.shape == (2, 2, size[1], size[0], 3)
        for v in range(2):
            assert worst_paint(clip.frames[:, v]) < 0.06
    centres = torch.stack([c.frames.cameras.Ks[..., :2, 2] for c in clips])
    assert (centres[:, :1] == centres).all(), "one cut for all steps of a camera"
    assert bool((centres != centres[0]).any()) == (shift > 0)


def test_unshifted_geometry_is_exact_and_a_wrong_K_would_be_seen():
    clip = windows(recording(num=3), size=(40, 30), horizon=1, augment=AugmentConfig(shift=0.1))[0]
    frames = clip.frames[:, 0]
    ground = unproject(frames.depth, frames.cameras.viewmats, frames.cameras.Ks)[..., 2]
    assert ground[frames.depth > 0].abs().max() < 0.06
    wrong = frames.cameras.replace(Ks=frames.cameras.Ks + torch.tensor([[0, 0, 4.0], [0, 0, 4.0], [0, 0, 0]]))
    assert worst_paint(frames.replace(cameras=wrong)) > 0.1


def test_colours_change_alike_in_all_steps_and_cameras():
    """The change is a function of colour alone, so shuffling pixels, steps and cameras before or after is the same."""
    config = AugmentConfig(brightness=0.2, contrast=0.3, saturation=0.4, hue=0.1)
    draw = lambda x, seed: recoloured(x, config, torch.Generator().manual_seed(seed))
    rgb = torch.rand(3, 2, 6, 5, 3)
    order = torch.randperm(rgb[..., 0].numel())
    shuffled = rgb.reshape(-1, 3)[order].reshape(rgb.shape)
    assert torch.equal(draw(rgb, 1).reshape(-1, 3)[order], draw(shuffled, 1).reshape(-1, 3))
    assert not torch.equal(draw(rgb, 1), draw(rgb, 2)) and torch.equal(draw(rgb, 1), draw(rgb, 1))
    assert draw(rgb, 3).min() >= 0 and draw(rgb, 3).max() <= 1


def test_a_clip_depends_on_number_and_epoch_alone():
    augment = AugmentConfig(brightness=0.2, hue=0.1, shift=0.1)
    ws = windows(recording("one"), recording("two"), augment=augment, kept_open=1)
    first = ws.clip(5, epoch=2)
    torch.manual_seed(99)
    for i in (0, 7, 3):
        ws.clip(i, epoch=1)
    assert equal_clips(first, ws.clip(5, epoch=2)) and not equal_clips(first, ws.clip(5, epoch=3))
    again = windows(recording("one"), recording("two"), augment=augment)
    assert equal_clips(first, again.clip(5, epoch=2))
    assert len({mixed_seed("augment", 0, e, i) for e in range(20) for i in range(500)}) == 10_000


def test_only_the_pictures_of_a_window_are_read_and_none_is_kept():
    read = []

    class Counting:
        def __init__(self, inner):
            self.inner = inner

        def __call__(self, frames, /):
            read.extend(frames)
            yield from self.inner(frames)

    sets = []
    for k in range(6):
        r = recording(f"r{k}", num=40, fps=20.0, cameras=("left",), depth=False)
        view = r.load.kept.views["left"]
        object.__setattr__(view, "color", Counting(view.color))
        sets.append(r)
    ws = windows(*sets, rate=10.0, context=2, horizon=3, future_pictures=False, kept_open=2)
    clip = ws[4]
    assert read == [8, 10] and clip.frames.rgb.shape[0] == 2 and len(clip.times) == 5
    for i in range(0, len(ws), 5):
        ws[i]
    assert len(ws._opened) <= 2
    assert ws.clip_bytes == 2 * 20 * 15 * 5 * 4


def test_ten_thousand_recordings_are_enumerated_from_metadata_alone():
    def never(cameras):
        raise AssertionError("a table was read")

    info = {"action_spec": [], "proprio_spec": []}
    many = [TableRecording(f"/r/{k}", 100, 10.0, {"a": (8, 8)}, info, never) for k in range(10_000)]
    ws = windows(*many)
    assert len(ws) == 10_000 * 92 and ws.place(92 * 4_321 + 7) == (4_321, 7)
    train, held = split_recordings(many, held_out=0.1)
    assert len(train) + len(held) == 10_000 and 800 < len(held) < 1200
    fewer = split_recordings(many[:5000], held_out=0.1)[1]
    assert {r.path for r in fewer} == {r.path for r in held if int(r.path[3:]) < 5000}, "adding some moves none"
    with pytest.raises(ConfigError):
        split_recordings(many[:1], held_out=0.5)


def test_scenes_are_lifted_once_and_read_ever_after(tmp_path):
    calls = []

    def lift(frames):
        calls.append(frames.batch_shape)
        return lift_frames(frames)

    def make(key="v1"):
        cache = LiftedScenes(tmp_path / "scenes", lift, key=key)
        settings = {**SMALL, "context": 2, "horizon": 1, "augment": AugmentConfig(shift=0.1)}
        return WindowSet([recording(num=4), recording("b", num=4)], WindowConfig(**settings), lifted=cache)

    ws = make()
    first = ws.batch(range(len(ws)))
    assert calls == [(2,)] * len(ws) and first.scene.batch_shape == (len(ws),)
    scene = first.scene[0]
    assert scene.means[scene.ids >= 0][:, 2].abs().max() < 0.06, "lifted from the recorded pictures: on the floor"
    again = make().batch(range(len(ws)), epoch=3)
    assert len(calls) == len(ws) and torch.equal(first.scene.means, again.scene.means)
    damaged = next((tmp_path / "scenes").rglob("*.safetensors"))
    damaged.write_bytes(damaged.read_bytes()[:100])
    assert equal_clips(make().batch(range(len(ws)), epoch=3), again) and len(calls) == len(ws) + 1
    make(key="v2")[0]
    assert len(calls) == len(ws) + 2


def test_real_recordings_of_many_kinds_load_together(shared_data):
    sets = []
    for name, given in (
        ("sim_rlbench_open_drawer", {}),
        ("rgbd_box_tabletop", {}),
        ("rgbd_hololens_kitchen", {}),
        ("robot_bridge_octo_debug", {"fov_deg": 60.0}),
        ("sim_lerobot_gr1", {"fov_deg": 60.0}),
    ):
        sets += open_recordings(shared_data / name, **given)[:2]
    ws = windows(
        *sets, cameras=("front|camera|#0", "wrist"), missing_cameras="mask", layout="union", combine="last", rate=5.0,
        context=2, horizon=2, stride=20, size=(48, 36), fit="crop",
    )  # fmt: skip
    batch = ws.batch([0, len(ws) - 1, *range(1, len(ws) - 1, 3)])
    kinds = {int(k) for k in batch.recording}
    assert len(kinds) >= 4 and batch.has_view[:, 0].all() and batch.frames.rgb.shape[1:3] == (4, 2)
    assert batch.frames.rgb.isfinite().all() and batch.actions.isfinite().all() and batch.valid.any(1).all()
    drawer = ws[0]
    assert drawer.has_view.all() and drawer.action_valid[0].sum() == 8
