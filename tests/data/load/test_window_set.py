"""Windows hold what the recordings hold, of any format, several recordings at once; what does not fit is refused."""

import re

import numpy as np
import pytest
import torch
from floor_scene import worst_paint
from loader_recordings import path_of, recording

from scene4d.data.detect import open_recordings
from scene4d.data.formats.lerobot.lerobot import write_lerobot
from scene4d.data.load.stored_episode import StoredEpisode, StoredWindows, import_episode, save_episode
from scene4d.data.load.window_set import WindowConfig, WindowSet
from scene4d.errors import ConfigError, DataFormatError


def windows(*recordings, **settings):
    return WindowSet(recordings, WindowConfig(**{"size": (20, 15), "horizon": 4, **settings}))


def test_a_window_is_the_stretch_about_its_now():
    one, two = recording("one", num=12), recording("two", num=9, shift=0.5)
    mine = windows(one, two, context=3, stride=2)
    assert [mine.moment(n)[1] for n in range(len(mine))] == [2, 4, 6, 2, 4]
    assert mine.moment(3)[0] is two and mine.groups() == [[0, 1, 2], [3, 4]]
    window = mine.read(1)
    times = np.arange(2, 9) / 10
    assert np.allclose(window.times, times) and np.allclose(window.proprio, path_of(times), atol=1e-6)
    assert torch.allclose(window.actions[:-1], window.proprio.diff(dim=0), atol=1e-6)
    assert window.frames.batch_shape == (7, 2) and window.valid.all() and window.rewards.eq(1).all()
    assert torch.equal(window.frames.rgb, one.read(2, 9, size=(20, 15)).stacked().rgb)
    batch = mine.batch([1, 4])
    assert batch.recording.tolist() == [0, 1] and batch.task.tolist() == [0, 1]
    assert mine.tasks == ["task of one", "task of two"] and torch.equal(batch[0].frames.rgb, window.frames.rgb)
    assert mine.read(1, context=1, cameras=["right"]).frames.batch_shape == (5, 1)


def test_a_stored_future_may_be_longer_than_its_pictures(tmp_path):
    """Windows begin at every frame with pictures; what is no picture goes on, and pictures that are not there are
    refused."""
    whole = recording(num=12).read()
    save_episode(tmp_path / "e.safetensors", whole[:7], tail=whole[7:].replace(views={}))
    stored = StoredEpisode(tmp_path / "e.safetensors")
    assert stored.num_frames == 7 and stored.read().times.tolist() == whole.times[:7].tolist()
    for name in ("times", "actions", "proprio", "rewards"):
        assert torch.allclose(getattr(stored, name), getattr(whole, name)), name
    mine = StoredWindows([stored], WindowConfig(context=2, horizon=4))
    assert [mine.moment(n)[1] for n in range(len(mine))] == [1, 2, 3, 4, 5, 6]
    assert torch.allclose(mine.read(1).frames.rgb, whole.stacked().rgb[1:7], atol=0.6 / 255)
    with pytest.raises(DataFormatError, match="ends before the window"):
        mine.read(2)
    longer = StoredWindows([stored], WindowConfig(context=2, horizon=8))
    assert [longer.moment(n)[1] for n in range(len(longer))] == [1, 2, 3]
    with pytest.raises(DataFormatError, match="shorter than a window"):
        StoredWindows([stored], WindowConfig(context=2, horizon=11))


@pytest.mark.parametrize("size", [(40, 30), (30, 40), (24, 24)])
def test_resized_pictures_show_what_their_cameras_look_at(size):
    source = recording(num=5, sizes={"left": (120, 90), "right": (100, 100)}.items())
    frames = windows(source, size=size).read(0).frames
    assert all(worst_paint(frames[:, v]) < 0.06 for v in range(2))
    wrong = frames.cameras.replace(Ks=frames.cameras.Ks + torch.tensor([[0, 0, 4.0], [0, 0, 4.0], [0, 0, 0]]))
    assert worst_paint(frames.replace(cameras=wrong)[:, 0]) > 0.1


def test_an_imported_recording_gives_the_same_windows(tmp_path):
    """What training reads: any format, through the compact file."""
    given = recording(num=8, cameras=("left", "right"))
    write_lerobot(tmp_path / "set", [given.read()])
    source = open_recordings(tmp_path / "set")[0]
    import_episode(tmp_path / "e.safetensors", source, cameras=("right", "left"), size=(20, 15))
    stored = StoredEpisode(tmp_path / "e.safetensors")
    one, two = windows(source, cameras=("right",)).read(2), windows(stored, cameras=("right",)).read(2)
    assert stored.cameras == ("right", "left") and stored.num_frames == 8 and abs(stored.fps - 10) < 1e-6
    assert torch.equal(one.actions, two.actions) and torch.equal(one.proprio, two.proprio)
    assert torch.allclose(one.frames.rgb, two.frames.rgb, atol=0.6 / 255)
    assert torch.allclose(one.frames.depth, two.frames.depth, atol=1e-4)
    assert torch.equal(one.frames.cameras.Ks, two.frames.cameras.Ks)


def test_columns_that_differ_are_refused_or_united():
    sets = recording("one"), recording("two", kind="speeds"), recording("three", kind="nothing")
    with pytest.raises(ConfigError, match=r"speed_x \[m/s\]") as caught:
        windows(*sets)
    assert caught.value.file == "/recordings/two" and caught.value.field == "action_spec"
    mine = windows(*sets, union=True)
    assert [c.name for c in mine.actions] == ["dx", "dy", "dz", "speed_x", "speed_y", "speed_z"]
    known = [mine.read(group[0]).actions.isfinite().all(0).tolist() for group in mine.groups()]
    assert known == [[True] * 3 + [False] * 3, [False] * 3 + [True] * 3, [False] * 6]
    assert mine.batch(range(len(mine))).proprio.isfinite().all()


def test_depth_that_a_camera_lacks_is_not_measured():
    mine = windows(recording("one"), recording("two", depth=False))
    batch = mine.batch([0, len(mine) - 1])
    assert batch.frames.depth[0].any() and not batch.frames.depth[1].any() and batch.frames.alpha.eq(1).all()


def test_recordings_that_do_not_go_together_are_named():
    """FAULTS rows 30 and 51."""
    with pytest.raises(DataFormatError, match="no recordings"):
        windows()
    with pytest.raises(DataFormatError, match=r"lacks right .*left, top") as caught:
        windows(recording("one"), recording("two", cameras=("left", "top")))
    assert caught.value.file == "/recordings/two" and caught.value.field == "cameras"
    with pytest.raises(DataFormatError, match=r"shorter than a window.*4 frames.*>= 5") as caught:
        windows(recording("long"), recording("short", num=4))
    assert caught.value.file == "/recordings/short"
    with pytest.raises(ConfigError, match=r"another rate.*resync") as caught:
        windows(recording("slow"), recording("fast", fps=30.0))
    assert caught.value.file == "/recordings/fast" and caught.value.found == "30"
    wrong = recording("one")
    wrong.info["action_spec"] = wrong.info["action_spec"][:2]
    with pytest.raises(ConfigError, match="another number of columns"):
        windows(wrong).read(0)
    for name in ("context", "stride"):
        with pytest.raises(ConfigError, match=name):
            windows(recording(), **{name: 0})


def test_every_task_is_among_those_held_out():
    mine = windows(*[recording(task, num=7) for _ in range(7) for task in "abc"])
    rest, held = mine.split(every=3)
    assert sorted({mine.moment(n)[0].path[-1] for n in held}) == ["a", "b", "c"]
    whole = [group for group in mine.groups() if set(group) <= set(held)]
    assert held == sorted(n for group in whole for n in group) and len(whole) == 6  # two recordings of each task
    assert sorted(rest + held) == list(range(len(mine))) and mine.split(every=8)[1] == []


def test_the_example_of_the_guide_runs(tmp_path, monkeypatch, request):
    guide = (request.config.rootpath / "docs" / "guide.md").read_text(encoding="utf-8")
    (example,) = [code for code in re.findall(r"```python\n(.*?)```", guide, re.S) if "WindowSet(" in code]
    episodes = [recording(num=7 + k, cameras=("left", "front")).read() for k in range(11)]
    write_lerobot(tmp_path / "recordings", episodes)
    monkeypatch.chdir(tmp_path)
    found = {}
    exec(example, found)
    found["batches"].close()
    assert found["batch"].frames.batch_shape == (4, 6, 2) and found["batch"].actions.shape == (4, 6, 3)
    assert len(found["training"]) == 11 * 2 + sum(range(11)) - len(found["held_out"])
