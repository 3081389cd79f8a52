"""Where the robot's own state goes: a causal model of a hand that lags behind its commands."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from scene4d.data.load.shuffled_batches import ShuffledBatches
from scene4d.layers import zero_
from scene4d.models.instants import Steps
from scene4d.robot.actions import action_slots
from scene4d.robot.slots import Slots
from scene4d.robot.track import Track, proprio_change, track_in_slots, track_of
from scene4d.tensor_struct import TensorStruct, shapes
from scene4d.text.task_vectors import TextEncoding, task_channels, task_vector
from scene4d.train.loop import LoopConfig
from scene4d.train.stage import Fit, fit
from scene4d.types import Task
from scene4d.world.family import TrainingRun, Windows


@dataclass(frozen=True)
class ProprioConfig:
    """Size of the proprio forecast."""

    width: int = 64
    """Channels of its recurrent state."""
    num_past: int = 8
    """Past steps it looks back at: a command shows in the hand only some steps later."""


@dataclass(frozen=True)
class ProprioFutures(TensorStruct):
    """What the proprio forecast learns from, all in slots. Batch axes `*b`.

    actions [*b h 16]; track; proprio_change [*b h 20] since now, true; task [*b 32].
    """

    actions: Tensor
    track: Track
    proprio_change: Tensor
    task: Tensor

    SHAPES = shapes(task="*b c")


@dataclass(frozen=True)
class RobotCondition(TensorStruct):
    """What moves the scene, batch [b], step by step.

    actions [b h 16] and last_action [b 16] in slots; proprio [b 20]; proprio_change [b h 20] since now, as foreseen;
    hidden [b h w] of the proprio forecast; task [b 32]; absent [b]: nothing is known of the actions, and what follows
    from them is 0 (None: they are known of all).
    """

    actions: Tensor
    last_action: Tensor
    proprio: Tensor
    proprio_change: Tensor
    hidden: Tensor
    task: Tensor
    absent: Tensor | None = None

    SHAPES = shapes(proprio="*b q")

    def without_actions(self, absent: Tensor) -> RobotCondition:
        """The same where actions are known; where they are absent [b], without what follows from them."""
        clear = lambda x: torch.where(absent.reshape(-1, *[1] * (x.dim() - 1)), 0.0, x)
        fields = {name: clear(getattr(self, name)) for name in ("actions", "proprio_change", "hidden")}
        return self.replace(**fields, absent=absent)

    def at(self, steps: Steps) -> RobotCondition:
        """The same of the steps [h] of a chunk, from one of every frame [n]: mean actions, and states at their ends."""
        return self.replace(
            actions=steps.mean(self.actions),
            proprio_change=steps.pick(self.proprio_change),
            hidden=steps.pick(self.hidden),
        )


MET, UNKNOWN = 0.1, 20.0
"""Error below which a hand got where it was sent, and how far beyond where it has been it may go then; both in units of
how far it goes in a chunk."""


class ProprioForecast(nn.Module):
    """Proprio since now from a track and the actions to come, causally: step i has seen actions 0..i only.

    A position-controlled hand chases a set point that its commands shift, inside a box that it cannot leave; how far
    the set point is ahead decides how fast the hand goes. The set point is integrated from the commands (their effect
    and the box are learned) and given to a recurrent net, which runs over the track first and then over the future.
    """

    scale: Tensor

    def __init__(self, config: ProprioConfig, *, slots: Slots, text: TextEncoding):
        super().__init__()
        self.config, self.slots = config, slots
        self.text: TextEncoding = text
        width, num = config.width, slots.num_proprio
        features = slots.num_actions + 4 * num + 1
        self.start = nn.Linear(task_channels(text), width)
        self.embed = nn.Sequential(nn.Linear(features, width), nn.SiLU())
        self.cell = nn.GRUCell(width, width)
        self.out = zero_(nn.Linear(width, num))
        self.straight = zero_(nn.Linear(features, num, bias=False))
        # All three in units of `scale`, so that a step of the optimiser is a small step for each of them.
        self.effect = nn.Parameter(torch.zeros(slots.num_actions, num))
        self.lowest = nn.Parameter(torch.full((num,), -20.0))
        self.highest = nn.Parameter(torch.full((num,), 20.0))
        self.register_buffer("scale", torch.full((num,), 0.02))

    @torch.no_grad()
    def set_statistics(self, futures: ProprioFutures) -> None:
        """Start from training futures [n]: what commands do to the set point, its box, and how fast the hand follows.

        The start is linear, a few numbers for each slot, so that it holds for a robot of which a minute is known; the
        recurrent net adds nothing to it yet.
        """
        change, total = futures.proprio_change[:, -1], futures.actions.sum(1)  # [n 20], [n 16]
        # Slots have units of their own: metres here, shares of full speed there.
        ridge = torch.diag(1e-3 * total.square().sum(0) + 1e-9)
        self.scale.copy_(change.square().mean(0).sqrt().clamp_min(2e-3))
        self.effect.copy_(torch.linalg.solve(total.T @ total + ridge, total.T @ change) / self.scale)
        self._set_box(futures)
        for parameter in (self.out.weight, self.out.bias, self.straight.weight):
            parameter.zero_()
        self._set_straight(futures)

    def _set_box(self, futures: ProprioFutures) -> None:
        """Where the hand has been is its box; one that always got where it was sent has met no limit."""
        asked = (futures.actions @ self.effect * self.scale).cumsum(1)  # [n h 20]
        missed = (asked - futures.proprio_change).square().mean((0, 1)).sqrt()  # [20]
        margin = torch.where(missed < MET * self.scale, UNKNOWN * self.scale, 1e-3)
        now = futures.track.proprio[:, -1:]
        places = torch.cat([now, now + futures.proprio_change], 1)  # [n h+1 20]
        self.lowest.copy_((places.amin((0, 1)) - margin) / self.scale)
        self.highest.copy_((places.amax((0, 1)) + margin) / self.scale)

    def _set_straight(self, futures: ProprioFutures) -> None:
        """Fit, slot by slot, how the speed changes with itself and with how far the set point is ahead."""
        track, slots = futures.track, torch.arange(self.slots.num_proprio)
        places = torch.cat([track.proprio, track.proprio[:, -1:] + futures.proprio_change], 1)  # [n p+h+1 20]
        actions = torch.cat([track.actions, futures.actions], 1)  # [n p+h 16]
        valid = torch.cat([track.valid, torch.ones_like(futures.actions[..., 0], dtype=torch.bool)], 1)
        goal, speed, inputs, wanted = places[:, 0], torch.zeros_like(places[:, 0]), [], []
        for i in range(actions.shape[1]):
            place, following, known = places[:, i], places[:, i + 1], valid[:, i, None]
            features, goal = self._features_of_step(actions[:, i], place, speed=speed, goal=goal)
            counts = known & valid[:, max(0, i - 1), None]  # of the first step the speed before is not known
            inputs.append(features * counts)
            wanted.append((following - place - speed) / (0.25 * self.scale) * counts)
            goal = torch.where(known, goal, following)
            speed = torch.where(known, following - place, 0.0)
        features, change = torch.cat(inputs), torch.cat(wanted)  # [m f], [m 20]
        # Of what the network is given: the speed of each slot, and how far its set point is ahead.
        columns = self.slots.num_actions + torch.stack([slots, self.slots.num_proprio + slots])  # [2 20]
        pair = features[:, columns]  # [m 2 20]
        normal = torch.einsum("mic,mjc->cij", pair, pair) + 1e-3 * len(pair) * torch.eye(2).to(pair)
        found = torch.linalg.solve(normal, torch.einsum("mic,mc->ci", pair, change))  # [20 2]
        self.straight.weight[slots, columns] = found.T

    def forward(self, actions: Tensor, *, track: Track, task: Tensor) -> tuple[Tensor, Tensor]:
        """Change of proprio since now [*b h 20], and the recurrent state of each step [*b h width].

        Args:
            actions: [*b h 16] in slots. track: in slots. task: [*b 32].
        """
        lead = actions.shape[:-2]
        flat = lambda x: x.reshape(-1, *x.shape[len(lead) :])
        actions, task, track = flat(actions), flat(task), track.map(flat)
        hidden = self.start(task)
        place = goal = track.proprio[:, 0]
        speed = torch.zeros_like(place)
        for i in range(track.actions.shape[1]):
            features, goal = self._features_of_step(track.actions[:, i], place, speed=speed, goal=goal)
            valid = track.valid[:, i, None]
            hidden = torch.where(valid, self.cell(self.embed(features), hidden), hidden)
            following = track.proprio[:, i + 1]
            goal = torch.where(valid, goal, following)
            # What came before the track is not known to have moved.
            place, speed = following, torch.where(valid, following - place, 0.0)
        now, changes, states = place, [], []
        for action in actions.unbind(1):
            features, goal = self._features_of_step(action, place, speed=speed, goal=goal)
            hidden = self.cell(self.embed(features), hidden)
            speed = speed + 0.25 * self.scale * (self.out(hidden) + self.straight(features))
            place = place + speed
            changes.append(place - now)
            states.append(hidden)
        stacked = lambda x: torch.stack(x, 1).reshape(*lead, len(x), -1)
        return stacked(changes), stacked(states)

    def condition(self, actions: Tensor, *, track: Track, task: Tensor) -> RobotCondition:
        """What moves a scene [b]: actions [b h 16] in slots, and the robot's state foreseen from its track in slots."""
        change, hidden = self(actions, track=track, task=task)
        last, now = track.actions[:, -1], track.proprio[:, -1]
        return RobotCondition(actions, last, proprio=now, proprio_change=change, hidden=hidden, task=task)

    def _features_of_step(self, action: Tensor, place: Tensor, *, speed: Tensor, goal: Tensor) -> tuple[Tensor, Tensor]:
        """What the network is given of a step [b f], and the set point [b 20] after its action."""
        lowest, highest = self.lowest * self.scale, self.highest * self.scale
        goal = torch.minimum(torch.maximum(goal + (action @ self.effect) * self.scale, lowest), highest)
        ahead = (goal - place) / self.scale  # [b 20]
        inside = 2 * (place - lowest) / (highest - lowest).clamp_min(1e-3) - 1
        parts = [action, 4 * speed / self.scale, ahead, torch.tanh(2 * ahead), inside.clamp(-4, 4)]
        return torch.cat([*parts, torch.ones_like(place[:, :1])], -1), goal


FORGOTTEN = 0.3
"""Share of the samples in training that are given only a part of their track."""


def proprio_loss(model: ProprioForecast, futures: ProprioFutures) -> tuple[Tensor, dict[str, Tensor]]:
    """Robust error of the foreseen proprio of a batch [b] in units of its spread; hand_mm: of the hand at the end."""
    track, num_past = futures.track, model.config.num_past
    # A robot that has just been switched on has no past: what is forgotten is the oldest part, of any length.
    count = torch.randint(0, num_past + 1, (len(track.valid), 1), device=track.valid.device)
    whole = torch.rand(count.shape, device=count.device) >= FORGOTTEN
    recent = torch.arange(num_past, device=count.device) >= num_past - count
    change, _ = model(futures.actions, track=track.replace(valid=track.valid & (whole | recent)), task=futures.task)
    error = change - futures.proprio_change  # [b h 20]
    size = (error / model.scale).norm(dim=-1)  # [b h]
    loss = torch.where(size < 0.3, size.square() / 0.6, size - 0.15).mean()
    return loss, {"hand_mm": 1e3 * error[:, -1, :3].detach().norm(dim=-1).mean()}


def fit_proprio(
    run: TrainingRun,
    proprio: ProprioForecast,
    *,
    numbers: Sequence[int],
    train: LoopConfig,
    batch_size: int,
    owner: nn.Module,
    folder: Path,
) -> float:
    """Train the forecast of the robot's own state on the episodes of the windows `numbers`.

    `owner` is the model that it is part of. Returns the hand's error at the end in mm.
    """
    windows = run.windows()
    futures = proprio_futures(windows, numbers, horizon=windows.horizon, slots=proprio.slots, text=proprio.text)
    proprio.set_statistics(futures)
    batches = ShuffledBatches(futures.__getitem__, range(len(futures.task)), batch_size=batch_size, seed=train.seed)
    what = Fit(proprio, lambda batch: proprio_loss(proprio, batch), batches, train)
    result = fit(what, folder=folder / "proprio", device=run.device, name="proprio", owner=owner)
    return round(float(result["hand_mm"]), 2)


def proprio_futures(
    windows: Windows, numbers: Sequence[int], *, horizon: int, slots: Slots, text: TextEncoding
) -> ProprioFutures:
    """What the forecast of the robot's own state learns from: every moment [w] of the windows' episodes."""
    rows = []
    for episode, number in {windows.moment(n)[0]: n for n in numbers}.items():
        robot = windows.robot_of(number)
        actions, proprio = episode.actions, episode.proprio
        task = task_vector(Task(episode.info["task"]), text=text)
        for t in range(1, len(actions) - horizon):
            track = track_of(actions[:t], proprio[: t + 1], num_past=windows.num_past_actions)
            rows.append(
                ProprioFutures(
                    actions=action_slots(actions[t : t + horizon], robot, proprio=proprio[t], slots=slots),
                    track=track_in_slots(track, robot, slots=slots),
                    proprio_change=proprio_change(
                        proprio[t + 1 : t + 1 + horizon], now=proprio[t], robot=robot, slots=slots
                    ),
                    task=task,
                )
            )
    return ProprioFutures.stack(rows)
