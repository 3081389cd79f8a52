"""The robot's own state: tracks of any length, causality, and a hand that lags behind its commands, in a box."""

from __future__ import annotations

import torch

from scene4d.models.proprio import ProprioConfig, ProprioForecast, ProprioFutures, proprio_loss
from scene4d.robot.slots import NUM_ACTION_SLOTS, NUM_PROPRIO_SLOTS, Slots
from scene4d.robot.track import track_of
from scene4d.text.task_vectors import WORD_CHANNELS

GAIN, LAG, BOX = 0.02, 0.25, 0.15
HORIZON, NUM_PAST = 8, 8


def chased(num: int, *, seed: int, num_steps: int = 40) -> tuple[torch.Tensor, torch.Tensor]:
    """Actions [n t 16] and proprio [n t+1 20] of a hand that goes a quarter of the way to its set point each step."""
    generator = torch.Generator().manual_seed(seed)
    pushes = torch.randn(num, num_steps // 8, 3, generator=generator).repeat_interleave(8, 1)
    actions = torch.zeros(num, num_steps, NUM_ACTION_SLOTS)
    actions[..., :3] = (pushes + 0.3 * torch.randn(num, num_steps, 3, generator=generator)).clamp(-1, 1)
    goal = place = torch.zeros(num, 3)
    track = [place]
    for action in actions.unbind(1):
        goal = (goal + GAIN * action[:, :3]).clamp(-BOX, BOX)
        place = place + LAG * (goal - place)
        track.append(place)
    return actions, torch.nn.functional.pad(torch.stack(track, 1), (0, NUM_PROPRIO_SLOTS - 3))


def forecast(*, width: int) -> ProprioForecast:
    return ProprioForecast(ProprioConfig(width=width), slots=Slots(), text="words")


def futures_of(actions: torch.Tensor, proprio: torch.Tensor) -> ProprioFutures:
    rows = []
    for t in range(1, actions.shape[1] - HORIZON):
        rows.append(
            ProprioFutures(
                actions=actions[:, t : t + HORIZON],
                track=track_of(actions[:, :t], proprio[:, : t + 1], num_past=NUM_PAST),
                proprio_change=proprio[:, t + 1 : t + 1 + HORIZON] - proprio[:, t : t + 1],
                task=torch.zeros(len(actions), WORD_CHANNELS),
            )
        )
    return ProprioFutures.stack(rows).map(lambda x: x.flatten(0, 1))


def test_tracks_are_padded_at_the_front():
    actions, proprio = torch.arange(6.0).reshape(3, 2), torch.arange(8.0).reshape(4, 2)
    track = track_of(actions, proprio, num_past=5)
    assert track.valid.tolist() == [False, False, True, True, True]
    assert torch.equal(track.actions[2:], actions) and not track.actions[:2].any()
    assert torch.equal(track.proprio[2:], proprio) and torch.equal(track.proprio[:2], proprio[:1].expand(2, 2))
    short = track_of(actions, proprio[-1:], num_past=5)
    assert not short.valid.any() and torch.equal(short.proprio, proprio[-1:].expand(6, 2))
    last = track_of(actions, proprio, num_past=1)
    assert torch.equal(last.actions, actions[-1:]) and torch.equal(last.proprio, proprio[-2:])


def test_what_is_before_the_recording_does_not_count():
    torch.manual_seed(0)
    model = forecast(width=16)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    futures = futures_of(*chased(2, seed=3))[:5]
    track = futures.track.replace(valid=torch.arange(NUM_PAST).expand(5, -1) >= 6)
    spoiled = track.replace(actions=torch.where(track.valid[..., None], track.actions, 7.0))
    told = lambda t: model(futures.actions, track=t, task=futures.task)[0]
    torch.testing.assert_close(told(track), told(spoiled))


def test_it_learns_a_lagging_hand_that_meets_its_limits():
    """On held-out episodes the hand's error falls far below that of going on as before, and of standing still."""
    torch.manual_seed(0)
    actions, proprio = chased(24, seed=0)
    futures, held_out = futures_of(actions, proprio), futures_of(*chased(8, seed=1))
    model = forecast(width=32)
    model.set_statistics(futures)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(100):
        value, _ = proprio_loss(model, futures[torch.randint(len(futures.task), (64,))])
        optimizer.zero_grad()
        value.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    with torch.no_grad():
        change, _ = model(held_out.actions, track=held_out.track, task=held_out.task)
    truth = held_out.proprio_change[:, -1]
    last = held_out.track.proprio[:, -1] - held_out.track.proprio[:, -2]
    error = lambda guess: float((guess - truth).norm(dim=-1).mean())
    assert error(change[:, -1]) < 0.35 * error(torch.zeros_like(truth))
    assert error(change[:, -1]) < 0.5 * error(HORIZON * last)


def test_a_hand_that_is_where_it_was_told_is_known_from_one_short_recording():
    """Commands that name places are met at once: true elsewhere too, where the recording never went."""
    actions, _ = chased(1, seed=2, num_steps=40)
    proprio = torch.nn.functional.pad(actions.cumsum(1), (0, 4))[..., :NUM_PROPRIO_SLOTS]
    proprio = torch.cat([torch.zeros_like(proprio[:, :1]), proprio], 1)
    model = forecast(width=16)
    model.set_statistics(futures_of(actions, proprio))
    elsewhere = futures_of(*(x + shift for x, shift in ((actions, 0.0), (proprio, torch.tensor(5.0)))))
    with torch.no_grad():
        change, _ = model(elsewhere.actions, track=elsewhere.track, task=elsewhere.task)
    way = elsewhere.proprio_change[..., :3].norm(dim=-1).mean()
    assert float((change - elsewhere.proprio_change)[..., :3].norm(dim=-1).mean()) < 0.05 * float(way)
