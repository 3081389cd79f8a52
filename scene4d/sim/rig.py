"""The fixed Meta-World camera rig, tasks, noise levels and seed ranges that training and every figure use."""

from __future__ import annotations

from dataclasses import dataclass

FOV_Y_DEG = 45.0


@dataclass(frozen=True)
class RigCamera:
    """A camera that looks at a point of the world from `distance` m; angles as MuJoCo's free camera."""

    lookat: tuple[float, float, float]
    distance: float
    azimuth_deg: float
    elevation_deg: float
    fov_y_deg: float = FOV_Y_DEG


FIXED_CAMERAS = {
    "left": RigCamera(lookat=(0.0, 0.60, 0.12), distance=1.25, azimuth_deg=25, elevation_deg=-30),
    "right": RigCamera(lookat=(0.0, 0.60, 0.12), distance=1.25, azimuth_deg=155, elevation_deg=-30),
    "front": RigCamera(lookat=(0.0, 0.55, 0.12), distance=1.35, azimuth_deg=270, elevation_deg=-40),
    "top": RigCamera(lookat=(0.0, 0.60, 0.10), distance=1.35, azimuth_deg=90, elevation_deg=-75),
}
SPARE_CAMERAS = {  # beside the rig: the fourth input where four cameras without depth are asked for
    "corner": RigCamera(lookat=(0.0, 0.60, 0.12), distance=1.35, azimuth_deg=300, elevation_deg=-38)
}
MODEL_CAMERAS = {"gripper": "gripperPOV"}  # cameras of the simulated model itself; this one moves with the hand
CAMERAS = (*FIXED_CAMERAS, *MODEL_CAMERAS)
INPUT_CAMERAS = ("left", "right")  # front and top are never an input of a model that is evaluated on them
SKY_RGB = (127 / 255, 126 / 255, 122 / 255)  # what is drawn where no ray meets anything: depth 0, segment -1

TASKS = ("button-press-v3", "door-open-v3", "drawer-open-v3", "pick-place-v3", "push-v3", "reach-v3")
TRAIN_TASKS = (
    *TASKS,
    *("button-press-topdown-v3", "drawer-close-v3", "door-close-v3", "window-open-v3", "handle-press-v3"),
    "plate-slide-v3",
)
HELD_OUT_TASKS = ("window-close-v3", "faucet-open-v3", "coffee-button-v3", "door-unlock-v3")
"""Tasks that nothing is trained on, so that reports can show what a model makes of what it never saw."""
HIDDEN_GOALS = ("pick-place", "push", "reach")
"""Beginnings of the names of tasks whose goal is a place that no picture shows: a policy needs it as an input."""
NOISE = (0.1, 0.3, 0.5)  # Gaussian action noise of the scripted expert, one level an episode in turn
SEEDS = {"train": (0, 999), "val": (1000, 1099), "test": (2000, 2099)}  # both ends included
MOVING_THRESHOLD = 0.005  # m: a pixel moves if the surface seen there is displaced by more than this

FAILURES = ("stops", "wrong_place", "drops", "never_closes", "pushes_past")
CARRYING = ("pick-place-v3",)
GOALS = ("pick-place-v3", "push-v3", "reach-v3")
FITTING = {"drops": CARRYING, "never_closes": CARRYING, "pushes_past": GOALS}
"""Tasks of a kind that does not fit them all: others have nothing in the hand, or no place to pass."""
FORGIVING = ("drawer-close-v3", "door-close-v3", "handle-press-v3", "plate-slide-v3")  # solved from a wrong place too


def kinds_for(task: str) -> list[str]:
    """The failures that fit a task: none of the table's ("tabletop/..."), whose experts are others."""
    if "/" in task:
        return []
    fitting = [kind for kind in FAILURES if task in FITTING.get(kind, (task,))]
    return [kind for kind in fitting if not (kind == "wrong_place" and task in FORGIVING)]
