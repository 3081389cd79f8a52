"""Weights and training state as safetensors with a JSON header: one file, written whole or not at all, never pickle."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from scene4d.errors import CheckpointError, SecurityError, VersionError
from scene4d.files import open_regular, save_safetensors
from scene4d.tensor_file import tensor_header
from scene4d.train.distributed import laid_out_as, whole
from scene4d.unreadable import naming_pointers

FORMAT_VERSION = 1
PICKLE_SUFFIXES = {".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".bin"}


def save_tensors(path: str | Path, tensors: Mapping[str, Tensor], *, state: Mapping[str, Any]) -> Path:
    """Write tensors and a JSON-ready state to one safetensors file, atomically.

    Tensors in parts are put together first, so every rank must call this where there are such.

    Raises:
        ResourceError: the disk is full or cannot be written.
    """
    header = {"format": "scene4d", "version": str(FORMAT_VERSION), "state": json.dumps(state, sort_keys=True)}
    save_safetensors(path, {k: whole(v.detach()).contiguous() for k, v in tensors.items()}, metadata=header)
    return Path(path)


@naming_pointers()
def load_tensors(path: str | Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read what `save_tensors` wrote.

    Raises:
        SecurityError: the file is a pickle (it is not opened).
        CheckpointError: the file is missing, truncated or not safetensors.
        VersionError: it was written by a later version.
    """
    path = Path(path)
    refuse_other_files(path)
    try:
        header = tensor_header(path).metadata  # with bounds, before the library reads it
        with safe_open(path, framework="pt") as file:
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    except FileNotFoundError as error:
        raise CheckpointError("does not exist", file=path, fix="train first, or name the weights file") from error
    except (SafetensorError, OSError) as error:
        problem = f"cannot be read as safetensors ({error})"
        raise CheckpointError(problem, file=path, fix="it may be truncated: copy it again") from error
    version = header.get("version", str(FORMAT_VERSION))
    if not (version.isascii() and version.isdecimal() and len(version) < 10):
        raise CheckpointError("has a broken header", file=path, field="version", found=version[:40])
    if int(version) > FORMAT_VERSION:
        raise VersionError("was written by a later version", file=path, found=version, expected=f"<= {FORMAT_VERSION}")
    try:
        state = json.loads(header.get("state", "{}"))
    except (ValueError, RecursionError) as error:
        raise CheckpointError("has a broken header", file=path, field="state", found=str(error)[:80]) from error
    if not isinstance(state, dict):
        raise CheckpointError("has a broken header", file=path, field="state", found=type(state).__name__)
    return tensors, state


def load_weights(module: nn.Module, path: str | Path, *, prefix: str = "") -> dict[str, Any]:
    """Load the tensors named `prefix`... of a weights file into a module, all or none; returns the file's state.

    Half-precision storage is widened to the module's dtype.

    Raises:
        SecurityError, CheckpointError, VersionError: as `load_tensors`; and CheckpointError listing every missing,
            extra or wrongly shaped tensor.
    """
    tensors, state = load_tensors(path)
    assign_weights(module, {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}, source=path)
    return state


@torch.no_grad()
def assign_weights(module: nn.Module, tensors: Mapping[str, Tensor], *, source: str | Path) -> None:
    """Copy named tensors into a module's state, all or none; `source` is only for the message.

    Raises:
        CheckpointError: listing every missing, extra or wrongly shaped tensor.
    """
    wanted = module.state_dict()
    pairs = [(k, tensors[k], wanted[k]) for k in wanted if k in tensors]
    problems = {
        "missing": wanted.keys() - tensors.keys(),
        "extra": tensors.keys() - wanted.keys(),
        "shape": [f"{k} {list(a.shape)} not {list(b.shape)}" for k, a, b in pairs if a.shape != b.shape],
        "dtype": [
            f"{k} {a.dtype} not {b.dtype}" for k, a, b in pairs if a.is_floating_point() != b.is_floating_point()
        ],
    }
    found = "; ".join(f"{name}: {_few(names)}" for name, names in problems.items() if names)
    if found:
        fix = "use the configuration they were trained with"
        raise CheckpointError("weights of another model", file=source, found=found, fix=fix)
    for key, value in wanted.items():
        value.copy_(laid_out_as(tensors[key], value))


def refuse_other_files(path: Path) -> None:
    """Refuse what is no weights file, by name or by content, without opening it as such.

    Raises:
        SecurityError: a pickle. CheckpointError: a folder, a scene, or no regular file.
    """
    head = b""
    if path.is_dir():
        raise CheckpointError("is a folder", file=path, expected="a .safetensors file")
    if path.exists():
        with open_regular(path, kind=CheckpointError) as file:
            head = file.read(9)
    # A safetensors file opens with the 8-byte length of its JSON header, which can look like a pickle's first bytes.
    pickled = head[:1] == b"\x80" and head[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05") and head[8:] != b"{"
    if path.suffix.lower() == ".s4d":
        raise CheckpointError("is a scene, not weights", file=path, expected=".safetensors")
    if path.suffix.lower() in PICKLE_SUFFIXES or pickled or head[:4] == b"PK\x03\x04":
        convert = "safetensors.torch.save_file(torch.load(PATH, weights_only=True), 'weights.safetensors')"
        fix = f"convert it if its source is trusted: {convert}"
        raise SecurityError("is a pickle, which can run code when opened", file=path, expected=".safetensors", fix=fix)


def _few(names: Iterable[str], *, most: int = 12) -> str:
    names = sorted(names)
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
