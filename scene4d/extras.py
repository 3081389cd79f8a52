"""Libraries that only some inputs and outputs need: loaded when they are needed, named with their extra when absent."""

from __future__ import annotations

import importlib
from types import ModuleType

from scene4d.disk_errors import refuse_shortage
from scene4d.errors import EnvError


def optional(module: str, *, extra: str, what: str) -> ModuleType:
    """The module, imported now.

    Raises:
        EnvError: it is not installed, or its native part does not load; the message tells how to get it.
        ResourceError: memory or descriptors ran out.
    """
    try:
        return importlib.import_module(module)
    except (ImportError, RuntimeError, OSError) as error:
        refuse_shortage(error, file=None)
        problem, fix = f"{what} needs a library that is not here", f'pip install "scene4d[{extra}]"'
        raise EnvError(problem, field=module, found=str(error)[:120], fix=fix) from error
