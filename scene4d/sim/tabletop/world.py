"""The table as a MuJoCo model (MJCF), built as text from a layout."""

from __future__ import annotations

import math
from collections.abc import Sequence

import mujoco

from scene4d.sim.rig import SKY_RGB
from scene4d.sim.tabletop.layout import (
    BLOCK_M,
    CABINET_FRONT_Y,
    DRAWER_TRAVEL_M,
    PLATE_HEIGHT_M,
    PLATE_RADIUS_M,
    Layout,
)
from scene4d.sim.tabletop.robots import RobotHand

TIMESTEP_S = 0.0025
HANDLE_M = 0.055  # from the front of the drawer to its handle
HANDLE_Z = 0.055
RGB = {
    "red": (0.82, 0.11, 0.1),
    "blue": (0.1, 0.22, 0.85),
    "green": (0.08, 0.58, 0.18),
    "yellow": (0.95, 0.8, 0.08),
    "purple": (0.55, 0.16, 0.7),
}
LAMP_PIVOT = (-0.36, 0.84, 0.42)
LAMP_CORD_M = 0.16
_WOOD, _WHITE = "0.62 0.47 0.33 1", "0.86 0.86 0.84 1"


def table_model(layout: Layout, *, hands: Sequence[RobotHand], lamp: bool) -> mujoco.MjModel:
    """The compiled model; bodies are named as the captions name them ("red block", "blue plate", "drawer")."""
    sky = " ".join(str(value) for value in SKY_RGB)
    parts = [
        *(_plate(name, place) for name, place in layout.plates.items()),
        *(_block(name, place, mass_kg=layout.mass_kg[name]) for name, place in layout.blocks.items()),
        _cabinet(layout),
        *(hand.mjcf() for hand in hands),
        *([_lamp()] if lamp else []),
    ]
    fingers = "".join(
        f'<joint joint1="{hand.prefix}finger_left" joint2="{hand.prefix}finger_right" solref="0.005 1"/>'
        for hand in hands
        if hand.kind.name == "gripper"
    )
    cups = "".join(
        f'<weld name="{hand.prefix}{name}" body1="{hand.prefix}hand" body2="{name}" active="false"/>'
        for hand in hands
        if hand.kind.name == "suction"
        for name in layout.blocks
    )
    return mujoco.MjModel.from_xml_string(f"""
<mujoco model="tabletop">
  <compiler angle="radian"/>
  <option timestep="{TIMESTEP_S}" integrator="implicitfast" cone="elliptic" impratio="10"/>
  <statistic center="0 0.6 0.1" extent="1"/>
  <visual>
    <map znear="0.02" zfar="60"/>
    <headlight ambient="0.35 0.35 0.35" diffuse="0.35 0.35 0.35" specular="0 0 0"/>
  </visual>
  <default><geom condim="4" friction="0.5 0.01 0.0002" solref="0.005 1"/></default>
  <asset>
    <texture type="skybox" builtin="flat" rgb1="{sky}" rgb2="{sky}" width="32" height="32"/>
    <material name="wood" rgba="{_WOOD}"/> <!-- without any material MuJoCo 3.3 draws the sky white -->
  </asset>
  <worldbody>
    <light pos="0.4 0.1 2" dir="-0.25 0.3 -1" diffuse="0.4 0.4 0.4" specular="0 0 0" directional="true"/>
    <geom type="plane" pos="0 0 -0.7" size="2 2 0.1" rgba="0.36 0.38 0.41 1" contype="0" conaffinity="0"/>
    <geom type="box" pos="0 0.5 -0.02" size="0.55 0.52 0.02" material="wood"/>
    <geom type="box" pos="0 0.5 -0.37" size="0.12 0.12 0.33" rgba="0.3 0.26 0.22 1" contype="0" conaffinity="0"/>
    {"".join(parts)}
  </worldbody>
  <contact><exclude body1="cabinet" body2="drawer"/><exclude body1="world" body2="drawer"/></contact>
  <equality>{fingers}{cups}</equality>
  <actuator>{"".join(hand.actuators() for hand in hands)}</actuator>
</mujoco>""")


def lamp_turn(layout: Layout, time: float) -> float:
    """Angle [rad] of the lamp's cord from straight down: a pendulum that nothing stops."""
    return 0.7 * math.sin(2 * math.pi * time / layout.lamp_period_s + layout.lamp_phase)


def _block(name: str, place: tuple[float, float, float], *, mass_kg: float) -> str:
    half, (x, y, yaw) = BLOCK_M / 2, place
    color = " ".join(str(value) for value in RGB[name.split()[0]])
    return f"""
    <body name="{name}" pos="{x} {y} {half}" euler="0 0 {yaw}"><freejoint/>
      <geom type="box" size="{half} {half} {half}" rgba="{color} 1" mass="{mass_kg}"/></body>"""


def _plate(name: str, place: tuple[float, float]) -> str:
    """A disc let into the table, a little proud of it: blocks stand on the table there, so that they can be pushed."""
    bright = [0.3 + 0.7 * value for value in RGB[name.split()[0]]]
    color, half = " ".join(str(value) for value in bright), PLATE_HEIGHT_M
    return f"""
    <body name="{name}" pos="{place[0]} {place[1]} 0">
      <geom type="cylinder" size="{PLATE_RADIUS_M} {half}" rgba="{color} 1" contype="0" conaffinity="0"/></body>"""


def _cabinet(layout: Layout) -> str:
    """A box with an open front and the drawer in it, which slides towards the robot."""
    box = lambda place, size, color: f'<geom type="box" pos="{place}" size="{size}" rgba="{color}"/>'
    walls = [
        box("-0.104 0.1 0.055", "0.006 0.1 0.055", _WHITE),
        box("0.104 0.1 0.055", "0.006 0.1 0.055", _WHITE),
        box("0 0.194 0.055", "0.098 0.006 0.055", _WHITE),
        box("0 0.1 0.116", "0.11 0.1 0.006", _WHITE),
    ]
    inner = "0.72 0.73 0.76 1"
    front, bar = "0.5 0.55 0.62 1", "0.2 0.2 0.22 1"
    drawer = [
        box("0 0.006 0.056", "0.096 0.006 0.048", front),
        box("-0.09 0.097 0.047", "0.005 0.085 0.035", inner),
        box("0.09 0.097 0.047", "0.005 0.085 0.035", inner),
        box("0 0.179 0.047", "0.085 0.005 0.035", inner),
        box("0 0.092 0.012", "0.085 0.082 0.005", inner),
        box(f"0 {-HANDLE_M} {HANDLE_Z}", "0.055 0.006 0.006", bar),
        box(f"-0.05 {-HANDLE_M / 2} {HANDLE_Z}", f"0.005 {HANDLE_M / 2} 0.005", bar),
        box(f"0.05 {-HANDLE_M / 2} {HANDLE_Z}", f"0.005 {HANDLE_M / 2} 0.005", bar),
    ]
    mass = layout.mass_kg["drawer"]
    inertia = f'<inertial pos="0 0.09 0.04" mass="{mass}" diaginertia="{mass / 200} {mass / 200} {mass / 200}"/>'
    where = f"{layout.cabinet_x} {CABINET_FRONT_Y} 0"
    return f"""
    <body name="cabinet" pos="{where}">{"".join(walls)}</body>
    <body name="drawer" pos="{where}">{inertia}
      <joint name="drawer" type="slide" axis="0 -1 0" range="0 {DRAWER_TRAVEL_M}" damping="4" frictionloss="0.6"/>
      {"".join(drawer)}</body>"""


def _lamp() -> str:
    """A bulb on a cord that swings by itself, and its light with it."""
    x, y, z = LAMP_PIVOT
    none = 'contype="0" conaffinity="0"'
    return f"""
    <geom type="cylinder" pos="{x} 0.9 {z / 2}" size="0.012 {z / 2}" rgba="0.25 0.25 0.27 1" {none}/>
    <geom type="box" pos="{x} {(0.9 + y) / 2} {z}" size="0.012 0.042 0.012" rgba="0.25 0.25 0.27 1" {none}/>
    <body name="lamp" mocap="true" pos="{x} {y} {z}">
      <geom type="cylinder" pos="0 0 {-LAMP_CORD_M / 2}" size="0.004 {LAMP_CORD_M / 2}" rgba="0.2 0.2 0.2 1" {none}/>
      <geom type="sphere" pos="0 0 {-LAMP_CORD_M}" size="0.035" rgba="1 0.97 0.8 1" {none}/>
      <light pos="0 0 {-LAMP_CORD_M - 0.04}" dir="0.5 -0.4 -1" diffuse="0.35 0.33 0.25" specular="0 0 0"
        attenuation="0.4 0.6 1" cutoff="80"/>
    </body>"""
