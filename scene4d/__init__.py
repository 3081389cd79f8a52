"""scene4d: a 3D/4D scene world model on Gaussian splatting for robot learning."""

from scene4d.errors import Scene4DError
from scene4d.render.render import render
from scene4d.scene import Motion, Scene4D
from scene4d.types import Cameras, Episode, Frames, Gaussians, Recording

__version__ = "0.1.0"
__all__ = [
    "Cameras",
    "Episode",
    "Frames",
    "Gaussians",
    "Motion",
    "Recording",
    "Scene4D",
    "Scene4DError",
    "render",
]
