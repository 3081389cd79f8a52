"""Three kinds of robot for the table: a hand that slides along x, y and z, and an arm of two links that goes with it.

The hand alone takes part in contacts. The arm is there to be seen: a post, and two links in a level plane whose joints
follow from where the hand is, so that nothing has to be solved to drive it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

STEP_M = 0.02  # how far an action of 1 moves the set point in a frame
TURN_RAD = 0.1
LINK_M = 0.46
ARM_HEIGHT_M = 0.22  # of the links above the origin of the hand
BASE_Y = 0.12
LOWEST_CORNER, HIGHEST_CORNER = (-0.32, 0.38), (0.32, 0.84)  # of the set point's box in x and y, m
HIGHEST_M = 0.3
LEAD_M = 0.06  # how far the set point may be ahead of a hand that is held up
STIFFNESS, DAMPING = 1600.0, 80.0  # N/m and N s/m: of a hand of 1 kg, critically damped, 50 ms behind its set point
OPEN_M = 0.042  # of one finger from the middle
FINGER_FORCE_N = 14.0


@dataclass(frozen=True)
class RobotKind:
    """What a kind of robot has: its numbers, its geometry (MJCF), and where its hand grips.

    The hand's origin is the point between the finger tips, the middle of the cup, or the middle of the blade near its
    lower edge.
    """

    name: str
    last_action: Mapping[str, str]
    last_proprio: Mapping[str, str]
    geoms: str
    lowest_m: float
    """Lowest set point of the hand's origin."""
    grip_m: float = 0.0
    """Height of the hand's origin above the middle of a block that it holds."""


_DARK, _BRIGHT = "0.16 0.16 0.18 1", "0.82 0.83 0.85 1"


def _finger(side: int) -> str:
    name = "finger_left" if side < 0 else "finger_right"
    return f"""
    <body name="{{p}}{name}">
      <joint name="{{p}}{name}" type="slide" axis="{side} 0 0" range="0.004 {OPEN_M}" damping="40" armature="0.05"
        solreflimit="0.005 1"/>
      <geom type="box" pos="{side * 0.006} 0 0.034" size="0.006 0.012 0.042" rgba="{_DARK}" friction="1.6 0.02 0.001"
        mass="0.05"/>
    </body>"""


def _palm(color: str) -> str:
    """The part of a hand that carries its tool, and the column up to the arm."""
    return f"""
    <geom type="box" pos="0 0 0.1" size="0.055 0.024 0.02" rgba="{color}" mass="0.8"/>
    <geom type="cylinder" pos="0 0 {(0.12 + ARM_HEIGHT_M) / 2}" size="0.018 {(ARM_HEIGHT_M - 0.12) / 2}"
      rgba="{_BRIGHT}" contype="0" conaffinity="0" mass="0.05"/>"""


ROBOTS = {
    "gripper": RobotKind(
        name="gripper",
        last_action={"name": "gripper", "unit": "effort, -1 opens, 1 closes", "frame": "gripper"},
        last_proprio={"name": "gripper_opening", "unit": "m", "frame": "gripper"},
        geoms=_palm("0.93 0.93 0.94 1") + _finger(-1) + _finger(1),
        lowest_m=0.016,
    ),
    "suction": RobotKind(
        name="suction",
        last_action={"name": "gripper", "unit": "suction, on above 0", "frame": "gripper"},
        last_proprio={"name": "suction_holds", "unit": "1 = holds", "frame": "gripper"},
        geoms=_palm("0.95 0.55 0.12 1")
        + f"""
    <geom type="cylinder" pos="0 0 0.011" size="0.016 0.011" rgba="{_DARK}" mass="0.05"/>
    <geom type="cylinder" pos="0 0 0.051" size="0.009 0.03" rgba="{_BRIGHT}" mass="0.05"/>""",
        lowest_m=0.03,
        grip_m=0.025,
    ),
    "pusher": RobotKind(
        name="pusher",
        last_action={"name": "drz", "unit": f"{TURN_RAD} rad", "frame": "world"},
        last_proprio={"name": "hand_yaw", "unit": "rad", "frame": "world"},
        geoms=_palm("0.1 0.55 0.58 1")
        + f"""
    <geom type="box" pos="0 0 0.02" size="0.036 0.005 0.034" rgba="{_DARK}" friction="0.6 0.01 0.0001" mass="0.05"/>
    <geom type="cylinder" pos="0 0 0.067" size="0.009 0.014" rgba="{_BRIGHT}" mass="0.05"/>""",
        lowest_m=0.018,
    ),
}


class RobotHand:
    """One robot of a model: where it is, and how its set point goes with the actions.

    Args:
        kind: a row of `ROBOTS`. prefix: of its names, "left_", "right_" or "" for a robot alone.
        base_x: where its post stands. side: 1 or -1, to which side its elbow goes.
    """

    def __init__(self, kind: RobotKind, *, prefix: str, base_x: float, side: int):
        self.kind, self.prefix, self.base_x, self.side = kind, prefix, base_x, side
        slides = ["x", "y", "z"] + (["yaw"] if kind.name == "pusher" else [])
        self.joints = [f"{prefix}hand_{axis}" for axis in slides]
        self.set_point = np.zeros(len(slides))
        self.held: str | None = None
        """The block that suction holds."""

    @property
    def bodies(self) -> list[str]:
        """Names of its bodies; the last two are moved along with the hand."""
        fingers = ["finger_left", "finger_right"] if self.kind.name == "gripper" else []
        return [self.prefix + name for name in ("hand", *fingers, "upper_arm", "forearm")]

    def action_spec(self) -> list[dict[str, str]]:
        """Names and units of its four actions."""
        rows = [{"name": name, "unit": f"{STEP_M} m", "frame": "world"} for name in ("dx", "dy", "dz")]
        return [{**row, "name": self.prefix + row["name"]} for row in [*rows, dict(self.kind.last_action)]]

    def proprio_spec(self) -> list[dict[str, str]]:
        """Names and units of the four numbers of its state."""
        rows = [{"name": f"hand_{axis}", "unit": "m", "frame": "world"} for axis in "xyz"]
        return [{**row, "name": self.prefix + row["name"]} for row in [*rows, dict(self.kind.last_proprio)]]

    def mjcf(self) -> str:
        """Its bodies."""
        p, yaw = self.prefix, ""
        if self.kind.name == "pusher":
            yaw = f'<joint name="{p}hand_yaw" type="hinge" axis="0 0 1" armature="0.002"/>'
        slides = "".join(
            f'<joint name="{p}hand_{axis}" type="slide" axis="{row}"/>'
            for axis, row in (("x", "1 0 0"), ("y", "0 1 0"), ("z", "0 0 1"))
        )
        geoms = self.kind.geoms.replace("{p}", p)
        camera = '<camera name="gripperPOV" pos="0 -0.09 0.1" xyaxes="1 0 0 0 0.8 0.6" fovy="70"/>'
        if p == "right_":
            camera = ""  # the rig has one camera on a hand: that of the left one
        arm = 'contype="0" conaffinity="0"'
        rod = f'<geom type="box" pos="0 {LINK_M / 2} 0" size="0.026 {LINK_M / 2} 0.02" rgba="{_BRIGHT}" {arm}/>'
        knob = f'<geom type="cylinder" size="0.042 0.03" rgba="0.3 0.32 0.36 1" {arm}/>'
        end = f'<geom type="cylinder" pos="0 {LINK_M} 0" size="0.034 0.026" rgba="0.3 0.32 0.36 1" {arm}/>'
        return f"""
  <geom type="cylinder" pos="{self.base_x} {BASE_Y} 0.26" size="0.032 0.26" rgba="0.45 0.47 0.5 1" {arm}/>
  <geom type="cylinder" pos="{self.base_x} {BASE_Y} 0.012" size="0.08 0.012" rgba="0.3 0.32 0.36 1" {arm}/>
  <body name="{p}hand" gravcomp="1">{slides}{yaw}{camera}{geoms}</body>
  <body name="{p}upper_arm" mocap="true">{rod}{knob}{end}</body>
  <body name="{p}forearm" mocap="true">{rod.replace("0.02", "0.016")}{end}</body>"""

    def actuators(self) -> str:
        """What drives its joints."""
        p = self.prefix
        gains = f'kp="{STIFFNESS}" kv="{DAMPING}" forcerange="-80 80"'
        rows = [f'<position name="{p}hand_{axis}" joint="{p}hand_{axis}" {gains}/>' for axis in "xyz"]
        if self.kind.name == "pusher":
            rows.append(f'<position name="{p}hand_yaw" joint="{p}hand_yaw" kp="6" kv="0.3"/>')
        if self.kind.name == "gripper":
            for name in ("finger_left", "finger_right"):
                rows.append(f'<motor name="{p}{name}" joint="{p}{name}" gear="{-FINGER_FORCE_N}"/>')
        return "".join(rows)

    def moved_set_point(self, action: np.ndarray, place: np.ndarray) -> np.ndarray:
        """The set point after an action [4] of a hand at `place` [3 or 4]: it stays in its box, and near the hand."""
        low, high = np.array([*LOWEST_CORNER, self.kind.lowest_m]), np.array([*HIGHEST_CORNER, HIGHEST_M])
        goal = self.set_point.copy()
        goal[:3] += STEP_M * action[:3]
        goal[:3] = np.clip(np.clip(goal[:3], place[:3] - LEAD_M, place[:3] + LEAD_M), low, high)
        if len(goal) > 3:
            goal[3] = np.clip(goal[3] + TURN_RAD * action[3], -math.pi, math.pi)
        return goal

    def arm_poses(self, hand: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
        """(place [3], quaternion [4]) of upper arm and forearm for a hand at [3]."""
        shoulder = np.array([self.base_x, BASE_Y])
        far = hand[:2] - shoulder
        distance = min(float(np.hypot(*far)), 2 * LINK_M - 1e-6)
        bend = math.acos(distance / (2 * LINK_M))
        heading = math.atan2(far[1], far[0])
        angles = (heading - self.side * bend, heading + self.side * bend)
        elbow = shoulder + LINK_M * np.array([math.cos(angles[0]), math.sin(angles[0])])
        height = hand[2] + ARM_HEIGHT_M
        poses = []
        for start, angle, lift in ((shoulder, angles[0], 0.05), (elbow, angles[1], 0.01)):
            half = (angle - math.pi / 2) / 2  # the links lie along y
            poses.append((np.array([*start, height + lift]), np.array([math.cos(half), 0, 0, math.sin(half)])))
        return poses
