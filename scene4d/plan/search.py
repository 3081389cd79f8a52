"""Search over action sequences with a world model: the cross-entropy method, MPPI, and the best of given proposals."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from scene4d.check import check
from scene4d.errors import NumericsError
from scene4d.robot.bounds import action_bounds
from scene4d.world.capabilities import sampled
from scene4d.world.contract import Prediction, State, WorldModel

Cost = Callable[[State, Prediction], Tensor]
"""cost(state [], prediction [n h]) -> [n]: how bad each of n futures of one state is; the lowest wins."""


@dataclass(frozen=True)
class SearchConfig:
    """How plans are searched for."""

    num_samples: int = 64
    """Sequences that are forecast together in one call, each iteration."""
    num_iterations: int = 3
    """Rounds of sampling."""
    num_elites: int = 8
    """Best sequences that the next round is drawn about (cross-entropy method)."""
    temperature: float = 0.1
    """Weight of a sequence falls by e where its cost is this share of the spread of costs above the best (MPPI)."""
    horizon: int = 8
    """Steps of a sequence."""
    num_knots: int = 4
    """Actions that are searched for; each is held for horizon / num_knots steps."""
    spread: float = 0.6
    """Standard deviation of the first round, in halves of the range of each action; in its units where it has none."""
    min_spread: float = 0.1
    """Least standard deviation of later rounds, as `spread`."""
    sampler_steps: int = 1
    """Steps of the world model's sampler."""


@dataclass(frozen=True)
class Plan:
    """What a search found: actions [h a], their cost, the costs [iterations] of the best after each round."""

    actions: Tensor
    cost: float
    costs: tuple[float, ...]


Refit = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
"""Knots [n k a] and costs [n] of a round -> mean and spread [k a] that the next one is drawn with."""
Method = Callable[[SearchConfig], Refit]
"""How a search goes from round to round: `cem` or `mppi`."""


def cem(config: SearchConfig) -> Refit:
    """The cross-entropy method: keep the elites, take their mean and spread.

    Source: Rubinstein 1999; elites are kept between rounds, as in iCEM (Pinneri et al. 2020).
    """
    elites: list[tuple[Tensor, Tensor]] = []

    def refit(knots: Tensor, costs: Tensor) -> tuple[Tensor, Tensor]:
        if elites:
            knots, costs = torch.cat([knots, elites[0][0]]), torch.cat([costs, elites[0][1]])
        best = costs.argsort()[: config.num_elites]
        elites[:] = [(knots[best], costs[best])]
        return knots[best].mean(0), knots[best].std(0, unbiased=False)

    return refit


def mppi(config: SearchConfig) -> Refit:
    """Model-predictive path integral: the mean is every sample's, weighted by exp(-cost).

    Source: Williams et al. 2017; costs are scaled by their spread, so that the temperature has no unit.
    """

    def refit(knots: Tensor, costs: Tensor) -> tuple[Tensor, Tensor]:
        above = (costs - costs.min()) / (costs.std(unbiased=False) + 1e-9)
        weights = torch.softmax(-above / config.temperature, 0)[:, None, None]
        mean = (weights * knots).sum(0)
        return mean, (weights * (knots - mean).square()).sum(0).sqrt()

    return refit


def find_plan(
    model: WorldModel,
    state: State,
    *,
    cost: Cost,
    method: Method = cem,
    config: SearchConfig | None = None,
    start: Tensor | None = None,
    proposals: Tensor | None = None,
    seed: int = 0,
) -> Plan:
    """Rounds of sampling about a mean that the method moves; the best sequence ever seen wins.

    What is tried lies within `action_bounds` of the state, as the learned simulator asks of its actions.

    Args:
        state: []. cost: of futures. start: actions [h a] to begin about (the last plan, moved on), or None = rest.
        proposals: [p k a] knots that the first round tries too, clipped to the bounds of the actions.
        seed: of the samples and of the model; every sequence is judged under the same draw of the model.
    Raises:
        NumericsError: no future is finite. ConfigError: the action spec has impossible bounds.
    """
    config = config or SearchConfig()
    refit = method(config)
    width, generator = state.robot.action.width, torch.Generator().manual_seed(seed)
    rest = state.proprio.new_zeros(config.num_knots, width)
    mean = rest if start is None else knots_of(start, num=config.num_knots)
    low, high = (bound.to(rest) for bound in action_bounds(state.robot))
    half_range = torch.where((high - low).isfinite(), (high - low) / 2, torch.ones_like(low))
    spread = (config.spread * half_range).expand_as(mean)
    best, least, trace = mean, math.inf, []
    for i in range(config.num_iterations):
        knots = mean + spread * _noise(config, width, generator=generator).to(mean)
        if i == 0 and proposals is not None:
            knots = torch.cat([proposals, knots])[: max(config.num_samples, len(proposals) + 1)]
        knots = knots.clamp(low, high)
        actions, steps = held(knots, horizon=config.horizon), config.sampler_steps
        costs = scored(model, state, actions=actions, cost=cost, sampler_steps=steps, seed=seed)
        winner = int(costs.argmin())
        if float(costs[winner]) < least:
            best, least = knots[winner], float(costs[winner])
        trace.append(least)
        known = costs.isfinite()
        if not bool(known.any()):
            break
        mean, spread = refit(knots[known], costs[known])
        spread = torch.maximum(spread, config.min_spread * half_range)
    return _plan(held(best[None], horizon=config.horizon)[0], tuple(trace))


def best_of(
    model: WorldModel, state: State, *, proposals: Tensor, cost: Cost, sampler_steps: int = 1, seed: int = 0
) -> Plan:
    """The best of proposals [n h a] (samples of a policy) by the world model's forecast of each.

    Raises:
        NumericsError: no future is finite.
    """
    costs = scored(model, state, actions=proposals, cost=cost, sampler_steps=sampler_steps, seed=seed)
    best = int(costs.argmin())
    return _plan(proposals[best], (float(costs[best]),))


def _plan(actions: Tensor, costs: tuple[float, ...]) -> Plan:
    """A plan whose last cost is that of its actions; a NumericsError if no future was finite."""
    if not math.isfinite(costs[-1]):
        fix = "check the weights and the observation"
        raise NumericsError("no future is finite", field="plan", found=f"cost {costs[-1]}", fix=fix)
    return Plan(actions, costs[-1], costs)


@torch.no_grad()
def scored(
    model: WorldModel, state: State, *, actions: Tensor, cost: Cost, sampler_steps: int = 1, seed: int = 0
) -> Tensor:
    """Costs [n] of sequences [n h a] from one state []: one call of the model; inf where a future is not finite."""
    check(actions=(actions, "n h a"))
    prediction = sampled(model, sampler_steps).predict(state.expand(len(actions)), actions=actions, seeds=(seed,))
    costs = cost(state, prediction)
    sound = torch.stack([costs, *(x.flatten(1).sum(-1) for x in prediction.tensors())]).isfinite().all(0)
    return torch.where(sound, costs, torch.full_like(costs, torch.inf))


def _noise(config: SearchConfig, width: int, *, generator: torch.Generator) -> Tensor:
    """Standard normal numbers [n k a], of which the first are 0: the mean itself is tried too.

    Half of their variance is the same for all knots: where independent knots take each other back, these lead far.
    Drawn on the CPU, so that a seed means the same everywhere.
    """
    common = torch.randn(config.num_samples, 1, width, generator=generator)
    noise = torch.randn(config.num_samples, config.num_knots, width, generator=generator)
    noise = math.sqrt(0.5) * (common + noise)
    noise[0] = 0.0
    return noise


def held(knots: Tensor, *, horizon: int) -> Tensor:
    """Knots [*b k a] held over `horizon` steps: [*b h a]."""
    index = torch.arange(horizon, device=knots.device) * knots.shape[-2] // horizon
    return knots[..., index, :]


def knots_of(actions: Tensor, *, num: int) -> Tensor:
    """The mean action of each of `num` equal stretches of actions [h a]: [num a]."""
    index = torch.arange(len(actions), device=actions.device) * num // len(actions)
    sums = actions.new_zeros(num, actions.shape[-1]).index_add(0, index, actions)
    return sums / torch.bincount(index, minlength=num).clamp_min(1)[:, None]


def moved_on(actions: Tensor, num_steps: int) -> Tensor:
    """A plan [h a] after `num_steps` of it were carried out: the rest, its last action going on."""
    return torch.cat([actions[num_steps:], actions[-1:].expand(min(num_steps, len(actions)), -1)])
