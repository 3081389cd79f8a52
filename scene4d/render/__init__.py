"""Rendering: `scene4d.render(gaussians, cameras)` draws; the package itself is the callable."""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

from scene4d.types import Frames


class _RenderPackage(ModuleType):
    """Lets `scene4d.render(...)` be the function while `scene4d.render.losses` stays a module."""

    def __call__(self, *args: Any, **kwargs: Any) -> Frames:
        from scene4d.render.render import render

        return render(*args, **kwargs)


sys.modules[__name__].__class__ = _RenderPackage
