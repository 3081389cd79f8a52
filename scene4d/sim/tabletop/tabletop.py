"""Our own table in closed loop: exact motion, identity, hidden mass and heat, captions, scripted experts."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import mujoco
import numpy as np
import torch
from torch import Tensor

from scene4d.errors import EnvError
from scene4d.sim.drawing.simulator import Simulator
from scene4d.sim.rig import RigCamera
from scene4d.sim.tabletop.captions import Instruction, TableTask, read_task
from scene4d.sim.tabletop.experts import TableState, expert_move
from scene4d.sim.tabletop.layout import (
    BESIDE_M,
    BLOCK_M,
    MIDDLE,
    MIDDLE_RADIUS_M,
    PLATE_RADIUS_M,
    SIDE_M,
    Layout,
    drawn_layout,
)
from scene4d.sim.tabletop.robots import ROBOTS, RobotHand
from scene4d.sim.tabletop.world import LAMP_PIVOT, TIMESTEP_S, lamp_turn, table_model

NUM_SUBSTEPS = round(1 / (Simulator.fps * TIMESTEP_S))
MAX_FRAMES = 250
REACH_M = 0.008  # how near the cup must be to the top of a block


class TabletopSim(Simulator):
    """One task of the table in closed loop.

    A seed fixes everything; a reset builds the model afresh. Actions are in [-1, 1]: the set point of a hand moves by
    0.02 m times the action a frame; the fourth number closes the fingers, switches suction, or turns the blade. Two
    robots have their actions and proprio one behind the other, left first.

    Args:
        task: a name such as "tabletop/suction/put-red-block-on-blue-plate", see `read_task`.
        seed: of what lies where. hidden_seed: of mass and heat, which no picture shows; by default the same.
        size, cameras, segments, turned_deg: as `Simulator`.
    Raises:
        ConfigError: no such task or camera.
    """

    source = "tabletop"

    def __init__(
        self,
        task: str,
        *,
        seed: int = 0,
        hidden_seed: int | None = None,
        size: tuple[int, int] = (64, 64),
        cameras: Sequence[str] | Mapping[str, RigCamera] = ("left", "right", "front", "top"),
        segments: bool | Sequence[str] = True,
        turned_deg: float = 0.0,
    ):
        self._template: TableTask = read_task(task)
        self._hidden_seed = hidden_seed
        kinds = [ROBOTS[name] for name in self._template.robots]
        if len(kinds) == 1:
            self.hands = [RobotHand(kinds[0], prefix="", base_x=0.0, side=1)]
        else:
            places = (("left_", -0.3, -1), ("right_", 0.3, 1))
            pairs = zip(kinds, places, strict=True)
            self.hands = [RobotHand(kind, prefix=p, base_x=x, side=side) for kind, (p, x, side) in pairs]
        self.robot = self._template.robot
        self.action_spec = tuple(row for hand in self.hands for row in hand.action_spec())
        self.proprio_spec = tuple(row for hand in self.hands for row in hand.proprio_spec())
        super().__init__(task, seed=seed, size=size, cameras=cameras, segments=segments, turned_deg=turned_deg)

    def reset(self, seed: int | None = None) -> None:
        """Back to the first frame of `seed` (by default the present one)."""
        self.seed = self.seed if seed is None else int(seed)
        self.table = self._template.drawn(self.seed)
        hidden_seed = self.seed if self._hidden_seed is None else self._hidden_seed
        self.layout: Layout = drawn_layout(self.table, seed=self.seed, hidden_seed=hidden_seed)
        self._model = table_model(self.layout, hands=self.hands, lamp=self.table.lamp)
        self._data = mujoco.MjData(self._model)
        self.num_frames = 0
        self._data.joint("drawer").qpos[0] = self.layout.drawer_m
        for hand, place in zip(self.hands, self.layout.hands, strict=True):
            hand.held = None
            hand.set_point[:] = [*place, 0.0][: len(hand.set_point)]
            for joint, value in zip(hand.joints, hand.set_point, strict=True):
                self._data.joint(joint).qpos[0] = value
                self._data.actuator(joint).ctrl[0] = value
            if hand.kind.name == "gripper":
                for name in ("finger_left", "finger_right"):
                    self._data.joint(hand.prefix + name).qpos[0] = 0.042
        self._place_followers()
        self._number_segments(_leaders(self._model))

    @property
    def text(self) -> str:
        """The caption: "put the red block on the blue plate"."""
        return self.table.text

    @property
    def goal(self) -> Tensor | None:
        """None: the caption says what to do."""
        return None

    @property
    def object_segments(self) -> list[int]:
        """The blocks and the drawer: what a robot can move."""
        return [k for k, name in enumerate(self.segment_names) if name in self.layout.mass_kg]

    @property
    def touched(self) -> list[str]:
        """Names of the blocks, and the drawer, that a hand touches now."""
        return [name for name in self.layout.mass_kg if self._is_touched(name)]

    def notes(self) -> dict[str, Any]:
        """Name of the task, phrases of each instruction, and the hidden fields."""
        return {
            "task_name": self.task,
            "phrases": [one.phrases for one in self.table.instructions],
            "mass_kg": dict(self.layout.mass_kg),
            "heat_c": dict(self.layout.heat_c),
        }

    def proprio(self) -> Tensor:
        """Place and fourth number of each hand, [4] or [8]."""
        rows = [[*self._place(hand)[:3], self._fourth(hand)] for hand in self.hands]
        return torch.tensor(rows, dtype=torch.float32).flatten()

    def expert_action(self) -> Tensor:
        """What the scripted experts would do now, [4] or [8] in [-1, 1]; a hand with nothing to do stands still."""
        rows = []
        for number, hand in enumerate(self.hands):
            jobs = [job for job, doer in zip(self.table.jobs, self.layout.doers, strict=True) if doer == number]
            if jobs:
                now = next((one for one in jobs[0] if self._score(one) < 1), jobs[0][-1])
                rows.append(expert_move(now, hand=hand, state=self._state(hand)))
            else:
                rows.append(np.zeros(4))
        return torch.from_numpy(np.clip(np.concatenate(rows), -1, 1)).float()

    def step(self, action: Tensor) -> tuple[float, bool]:
        """Hold `action` [4] or [8] (clipped to [-1, 1]) for one frame of ten simulator steps; as `Simulator.step`."""
        values = self._clipped(action).astype(np.float64)
        if self.num_frames >= MAX_FRAMES:
            raise EnvError("the episode is over", field="step", found=f"{self.num_frames} frames", fix="call reset")
        starts, ends = [hand.set_point.copy() for hand in self.hands], []
        for number, hand in enumerate(self.hands):
            own = values[4 * number : 4 * number + 4]
            ends.append(hand.moved_set_point(own, self._place(hand)))
            hand.set_point[:] = ends[-1]
            if hand.kind.name == "gripper":
                for name in ("finger_left", "finger_right"):
                    self._data.actuator(hand.prefix + name).ctrl[0] = own[3]
            if hand.kind.name == "suction":
                self._switch_suction(hand, effort=float(own[3]))
        for substep in range(1, NUM_SUBSTEPS + 1):
            share = substep / NUM_SUBSTEPS
            for hand, start, end in zip(self.hands, starts, ends, strict=True):
                for joint, value in zip(hand.joints, start + share * (end - start), strict=True):
                    self._data.actuator(joint).ctrl[0] = value
            mujoco.mj_step(self._model, self._data)
        self.num_frames += 1
        self._place_followers()
        scores = [self._score(one) for one in self.table.instructions]
        return 10 * sum(scores) / len(scores), min(scores) == 1

    def _world(self) -> tuple[mujoco.MjModel, mujoco.MjData]:
        return self._model, self._data

    def _place(self, hand: RobotHand) -> np.ndarray:
        """[3], or [4] with the yaw."""
        return np.array([self._data.joint(joint).qpos[0] for joint in hand.joints])

    def _fourth(self, hand: RobotHand) -> float:
        if hand.kind.name == "gripper":
            return 2 * float(self._data.joint(f"{hand.prefix}finger_left").qpos[0])
        return float(hand.held is not None) if hand.kind.name == "suction" else float(self._place(hand)[3])

    def _place_followers(self) -> None:
        """Arms and lamp go where they belong, and everything that depends on places is worked out."""
        model, data = self._model, self._data
        for hand in self.hands:
            for name, (place, quat) in zip(hand.bodies[-2:], hand.arm_poses(self._place(hand)), strict=True):
                number = model.body(name).mocapid[0]
                data.mocap_pos[number], data.mocap_quat[number] = place, quat
        if self.table.lamp:
            number, half = model.body("lamp").mocapid[0], lamp_turn(self.layout, self.time) / 2
            data.mocap_pos[number], data.mocap_quat[number] = LAMP_PIVOT, [math.cos(half), 0, math.sin(half), 0]
        mujoco.mj_forward(model, data)

    def _state(self, hand: RobotHand) -> TableState:
        names = [*self.layout.blocks, *self.layout.plates, "drawer"]
        return TableState(
            places={name: self._data.body(name).xpos.copy() for name in names},
            hand=self._place(hand),
            opening=self._fourth(hand) if hand.kind.name == "gripper" else 0.0,
            drawer_m=float(self._data.joint("drawer").qpos[0]),
        )

    def _switch_suction(self, hand: RobotHand, *, effort: float) -> None:
        """Above 0 the cup takes the block whose top it is at; from 0 down it lets go."""
        model, data = self._model, self._data
        if effort <= 0 and hand.held is not None:
            data.eq_active[model.equality(hand.prefix + hand.held).id] = 0
            hand.held = None
        if effort <= 0 or hand.held is not None:
            return
        cup = data.body(f"{hand.prefix}hand").xpos
        for name in self.layout.blocks:
            block = data.body(name)
            local = block.xmat.reshape(3, 3).T @ (cup - block.xpos)
            top = local[2] - BLOCK_M / 2
            if abs(top) < REACH_M and np.abs(local[:2]).max() < BLOCK_M / 2 and block.xmat[8] > 0.9:
                weld = model.equality(hand.prefix + name).id
                model.eq_data[weld, 3:6] = block.xpos - cup  # the hand does not turn
                model.eq_data[weld, 6:10] = block.xquat
                data.eq_active[weld], hand.held = 1, name
                return

    def _is_touched(self, name: str) -> bool:
        """Whether any part of a hand is in contact with a body."""
        model, data = self._model, self._data
        body = model.body(name).id
        parts = {model.body(part).id for hand in self.hands for part in hand.bodies[:-2]}
        for first, second in model.geom_bodyid[data.contact.geom[: data.ncon]]:
            if (first == body and second in parts) or (second == body and first in parts):
                return True
        return any(hand.held == name for hand in self.hands)

    def _score(self, instruction: Instruction) -> float:
        """1 = carried out; below 0.5 the nearer the higher."""
        if instruction.object == "drawer":
            opened = float(self._data.joint("drawer").qpos[0])
            missing = max(0.0, 0.12 - opened) if instruction.verb == "open" else max(0.0, opened - 0.012)
            return 1.0 if missing == 0 else 0.5 * math.exp(-missing / 0.1)
        block = self._data.body(instruction.object).xpos
        missing = self._missing(instruction, block)
        lies = missing == 0 and self._rests(instruction, block)
        return 1.0 if lies else 0.5 * math.exp(-missing / 0.1)

    def _missing(self, instruction: Instruction, block: np.ndarray) -> float:
        """Metres, level with the table, by which a block is not yet where it should be."""
        if instruction.place in ("left side", "right side"):
            return max(0.0, SIDE_M + (block[0] if instruction.place == "left side" else -block[0]))
        if instruction.place == "middle":
            return max(0.0, float(np.hypot(*(block[:2] - MIDDLE))) - MIDDLE_RADIUS_M)
        far = block[:2] - self._data.body(instruction.place).xpos[:2]
        if instruction.relation == "in":
            return max(0.0, abs(far[0]) - 0.08) + max(0.0, abs(far[1] - 0.09) - 0.08)
        distance = float(np.hypot(*far))
        if instruction.relation == "beside":
            return max(0.0, distance - BESIDE_M - 0.02) + max(0.0, PLATE_RADIUS_M + 0.015 - distance)
        return max(0.0, distance - (BLOCK_M / 2 if instruction.verb == "stack" else PLATE_RADIUS_M - 0.01))

    def _rests(self, instruction: Instruction, block: np.ndarray) -> bool:
        """Whether a block lies at its height and, unless it is pushed, no hand holds it."""
        height = BLOCK_M / 2
        if instruction.relation == "in":
            height = 0.017 + BLOCK_M / 2
        elif instruction.verb == "stack":
            height = float(self._data.body(instruction.place).xpos[2]) + BLOCK_M
        still = abs(block[2] - height) < 0.006
        return still and (instruction.verb == "push" or not self._is_touched(instruction.object))


def _leaders(model: mujoco.MjModel) -> np.ndarray:
    """[nbody] the body that each body moves with: what has joints, is moved along, or is a plate leads itself."""
    leaders = np.zeros(model.nbody, np.int64)
    for body in range(1, model.nbody):
        leads = model.body_jntnum[body] > 0 or model.body_mocapid[body] >= 0 or model.body(body).name.endswith("plate")
        leaders[body] = body if leads else leaders[model.body_parentid[body]]
    return leaders
