"""scene4d: a 3D/4D scene world model on Gaussian splatting for robot learning."""

import importlib
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

from scene4d.errors import Scene4DError

if TYPE_CHECKING:
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

_MODULES = {
    "scene4d.types": ("Cameras", "Episode", "Frames", "Gaussians", "Recording"),
    "scene4d.scene": ("Motion", "Scene4D"),
    "scene4d.render.render": ("render",),
}
_MODULE_OF = {name: module for module, names in _MODULES.items() for name in names}


def __getattr__(name: str) -> Any:
    """A public name, looked up when it is first used: its module imports torch, which takes a second."""
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(importlib.import_module(_MODULE_OF[name]), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


class _Package(ModuleType):
    """This package, in which `render` is always the function.

    Python sets a package's attribute to each submodule that is imported: `import scene4d.render.render` would put the
    folder `render` in the place of the function of that name.
    """

    def __setattr__(self, name: str, value: Any) -> None:
        if not (name == "render" and isinstance(value, ModuleType)):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
