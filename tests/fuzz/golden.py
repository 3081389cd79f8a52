"""What every fuzz target is: a golden file to start from, and a reader that may raise nothing but Scene4DError."""

from __future__ import annotations

import contextlib
import importlib
import time
import warnings
from pathlib import Path
from typing import Protocol

from scene4d.errors import Scene4DError

SECONDS, MEBIBYTES = 2.0, 512
FOLDER = Path(__file__).parent


class Target(Protocol):
    """A module target_NAME.py in this folder."""

    SUFFIX: str

    def golden(self) -> list[bytes]:
        """Good files, small ones, of every kind the reader knows."""

    def mended(self, data: bytes) -> bytes:
        """The file with its checksums made to fit, so that damage reaches what they guard; the same where none are."""

    def read(self, path: Path) -> None:
        """Read all that the file offers and use it."""


def target_names() -> list[str]:
    """The targets in this folder."""
    return sorted(p.stem.removeprefix("target_") for p in FOLDER.glob("target_*.py"))


def load_target(name: str) -> Target:
    """The module of the target."""
    return importlib.import_module(f"target_{name}")


def check_input(target: Target, data: bytes, folder: Path) -> bool:
    """Read `data` as a file; returns whether it was accepted. Anything but Scene4DError comes out.

    Raises:
        TimeoutError: it took more than two seconds.
    """
    path = folder / f"input{target.SUFFIX}"
    path.write_bytes(data)
    start = time.process_time()
    accepted = False
    with contextlib.suppress(Scene4DError), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        target.read(path)
        accepted = True
    if time.process_time() - start > SECONDS:
        raise TimeoutError(f"{time.process_time() - start:.1f} s for {len(data)} bytes")
    return accepted
