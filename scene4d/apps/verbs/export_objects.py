"""The objects of a scene as files: one .ply for each, with what is known of it; or the scene in their colours."""

from __future__ import annotations

import colorsys
import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from scene4d.files import atomic_folder
from scene4d.gaussians.formats.ply import write_ply
from scene4d.gaussians.formats.points import write_gaussian_points
from scene4d.gaussians.s4d.s4d import S4DFile
from scene4d.geometry.sh import rgb_from_sh, sh_from_rgb
from scene4d.objects.groups import BACKGROUND, Objects, objects_of_scene
from scene4d.robot.slots import hand_position, proprio_slot_index
from scene4d.scene import Scene4D, alive_at
from scene4d.types import Gaussians
from scene4d.world.observation import robot_of_s4d

HUE_STEP = 0.618034
"""Turns of the colour wheel from one number to the next: neighbours never look alike."""


def objects_of_file(scene: Scene4D, file: S4DFile | None) -> Objects:
    """The objects of a scene; where its file holds a hand's place at every instant, its robot is marked."""
    return objects_of_scene(scene, hands=None if file is None else _hands(file, len(scene.times)))


def _hands(file: S4DFile, count: int) -> Tensor | None:
    """[t 1 3] m; None where the file does not hold a place, by name, for each instant."""
    held = file.info.get("proprio")
    if held is None or len(held) != count:
        return None
    states = torch.tensor(held, dtype=torch.float64)
    robot = robot_of_s4d(file, num_proprio=states.shape[-1])
    if not robot.proprio.known or not {0, 1, 2} <= set(proprio_slot_index(robot)):
        return None
    return hand_position(states, robot)[:, None]


def write_objects(path: Path, scene: Scene4D, *, objects: Objects, time: float, points: bool) -> dict[str, int]:
    """A folder with object_NNN.ply for each object as it is at `time` s, background.ply, and objects.json.

    The .ply are splats, or point clouds with `points`. Objects none of whose rows exist then are only in objects.json.

    Returns:
        {num_rows, num_objects} of the files.
    Raises:
        ResourceError: the folder is there and holds something, or cannot be written.
    """
    now = scene.at(time)
    there = alive_at(scene, time) & (now.ids >= 0)
    write = write_gaussian_points if points else write_ply
    listed, written = [], 0

    def part(name: str, number: int) -> dict[str, Any]:
        own = now.pick(there & (objects.number == number))
        if own.num_gaussians:
            write(folder / name, own)
        return {"file": name if own.num_gaussians else None, "num_rows": own.num_gaussians}

    with atomic_folder(path) as folder:
        for index, number in enumerate(objects.numbers.tolist()):
            found = part(f"object_{number:03d}.ply", number)
            written += found["num_rows"]
            listed.append({"number": number, **found, **_facts(objects, index)})
        background = part("background.ply", BACKGROUND)
        facts = {"time": time, "times": objects.times.tolist(), "objects": listed, "background": background}
        (folder / "objects.json").write_text(json.dumps(facts, indent=1))
    return {"num_rows": written + background["num_rows"], "num_objects": sum(one["num_rows"] > 0 for one in listed)}


def _facts(objects: Objects, index: int) -> dict[str, Any]:
    """What is known of one object, JSON-ready."""
    rounded = lambda x: [round(v, 6) for v in x.tolist()]
    return {
        "centre_m": rounded(objects.centre[index]),
        "extent_m": rounded(objects.extent[index]),
        "colour": rounded(objects.colour[index]),
        "moved": bool(objects.moved[index]),
        "robot": bool(objects.robot[index]),
        "confidence": round(float(objects.confidence[index]), 4),
        "motion": [rounded(pose) for pose in objects.motion[index]],
    }


def in_object_colours(scene: Scene4D, objects: Objects) -> Scene4D:
    """The scene with every object in a colour of its own, and the background in grey."""
    base: Gaussians = scene.base
    grey = rgb_from_sh(base.sh).mean(-1, keepdim=True).clamp(0, 1).expand(-1, 3)
    colours = 0.3 + 0.4 * grey
    for number in objects.numbers.tolist():
        hue = torch.tensor(colorsys.hsv_to_rgb(number * HUE_STEP % 1.0, 0.75, 1.0))
        rows = objects.number == number
        colours = torch.where(rows[:, None], hue * (0.35 + 0.65 * grey), colours)
    residual = None if scene.residual is None else {k: v for k, v in scene.residual.items() if k != "sh"}
    return scene.replace(base=base.replace(sh=sh_from_rgb(colours.to(base.sh))), residual=residual)
