"""Refinement through motion: every instant comes nearer to what was seen, and nothing but the moving look changes."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from turning_box import TurningBox

from scene4d.lift.refine.refine_config import RefineSceneConfig
from scene4d.lift.refine.refine_scene import refine_scene
from scene4d.lift.stream.stream import SceneStream, StreamConfig
from scene4d.render.render import render
from scene4d.types import Frames

BOX, COUNT = dataclasses.replace(TurningBox(), size=48), 6


@pytest.fixture(scope="module")
def streamed():
    """A streamed scene, and the frames [t v] that it was made from."""
    torch.set_num_threads(1)
    stream, seen = SceneStream(StreamConfig(polish_first=4, polish=2)), []
    for t in range(COUNT):
        seen.append(BOX.frames(t))
        stream.update(seen[-1], time=0.1 * t)
    return stream.scene(), Frames.stack(seen)


@pytest.fixture(scope="module")
def refined(streamed):
    calls = []
    scene = refine_scene(*streamed, progress=lambda done, total: calls.append((done, total)))
    return scene, calls


def errors(scene, frames):
    """Mean squared error [t] of what the scene shows at each instant."""
    drawn = [render(scene.at(float(time)), frames.cameras[t]).rgb for t, time in enumerate(scene.times)]
    return torch.stack([(a - b).square().mean() for a, b in zip(drawn, frames.rgb, strict=True)])


def test_every_instant_comes_nearer_to_what_was_seen(streamed, refined):
    before, after = (errors(scene, streamed[1]) for scene in (streamed[0], refined[0]))
    assert bool((after < before).all()) and float(after.mean()) < 0.9 * float(before.mean())


def test_only_the_look_of_what_moves_changes(streamed, refined):
    old, new = streamed[0], refined[0]
    moves = (old.motion.skin_weights != 0).any(-1)
    assert 0 < int(moves.sum()) < len(moves)
    for name in ("means", "scales", "opacities", "sh"):
        a, b = getattr(old.base, name), getattr(new.base, name)
        assert torch.equal(a[~moves], b[~moves]) and not torch.equal(a[moves], b[moves]), name
        assert not b.requires_grad
    assert torch.equal(old.base.quats, new.base.quats) and torch.equal(old.base.ids, new.base.ids)
    assert torch.equal(old.alive, new.alive) and torch.equal(old.times, new.times)
    for name, values in vars(old.motion).items():
        assert values is None or torch.equal(values, getattr(new.motion, name)), name
    for name, values in old.base.extras.items():
        assert torch.equal(values, new.base.extras[name]), name
    shift, size = (new.base.means - old.base.means).abs(), old.base.scales.median(-1, keepdim=True).values
    config = RefineSceneConfig()
    assert bool((shift <= config.max_shift * size + 1e-6).all()), "nothing goes far from where it was measured"
    assert bool(((new.base.scales / old.base.scales).log().abs() <= torch.tensor(config.max_scale).log() + 1e-5).all())


def test_it_repeats_itself_and_reports_progress(streamed, refined):
    first, calls = refined
    again = refine_scene(*streamed)
    for name in ("means", "scales", "opacities", "sh"):
        assert torch.equal(getattr(first.base, name), getattr(again.base, name)), name
    total = RefineSceneConfig().passes * COUNT
    assert calls == [(k + 1, total) for k in range(total)]


def test_nothing_to_do_changes_nothing(streamed):
    scene, frames = streamed
    assert refine_scene(scene, frames, config=RefineSceneConfig(passes=0)) is scene
    still = scene.replace(motion=scene.motion.replace(skin_weights=torch.zeros_like(scene.motion.skin_weights)))
    assert refine_scene(still, frames) is still
