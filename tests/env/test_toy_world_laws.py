"""The laws of world models, for the stub that other tests use."""

from __future__ import annotations

import toy_world
from world_model_laws import WorldModelLaws


class TestToyWorld(WorldModelLaws):
    """A hand that pushes a block."""

    markov = True

    def make_model(self):
        return toy_world.ToyWorld()

    def make_observation(self, kind: int = 0):
        return toy_world.toy_start(hand=(0.05 * kind, 0.0, 0.05))
