"""`scene4d doctor`: what this machine has, and what is missing for which verb."""

from __future__ import annotations

import importlib
import platform
import shutil
import sys
from collections.abc import Mapping
from importlib import metadata
from typing import Any

from scene4d.apps.compose.assets import DEMO_EPISODE, WEIGHTS
from scene4d.apps.verbs.options.agents import DoctorOptions

SIMULATED = "record, train, eval of all kinds but on recordings"
OPTIONAL = {
    "metaworld": ("sim", SIMULATED),
    "mujoco": ("sim", SIMULATED),
    "trimesh": ("geometry", "meshes and GLB"),
    "gsplat": ("gsplat", "the gsplat backend, to compare with, on CUDA"),
    "open3d": ("open3d", "TSDF meshes"),
    "h5py": ("hdf5", "HDF5 recordings"),
    "pycolmap": ("colmap", "COLMAP recordings"),
    "mcap": ("mcap", "MCAP recordings"),
    "gymnasium": ("env", "the learned simulator"),
    "transformers": ("depth", "depth for recordings without it"),
    "viser": ("view", "the viewer"),
    "pytorch3d": (None, "conversion of cameras and point clouds"),
    "nerfstudio": ("nerfstudio", "its dataparser and exports"),
}


def run_doctor(options: DoctorOptions) -> dict:
    """Returns {python, system, torch, threads, cuda, native, compiler, demo_files, optional, healthy}."""
    system = f"{platform.system()} {platform.machine()}"
    facts = {"python": platform.python_version(), "system": system, **_torch(), **_native()}
    facts["compiler"] = next((name for name in ("c++", "g++", "clang++") if shutil.which(name)), None)
    lacking = [str(path) for path in (DEMO_EPISODE, WEIGHTS) if not path.exists()]
    facts["demo_files"] = f"missing: {', '.join(lacking)}" if lacking else "ok"
    optional = {name: _version(name) for name in OPTIONAL}
    return {**facts, "optional": optional, "healthy": facts["native"] == "ok" and facts["demo_files"] == "ok"}


def text_of(result: Mapping[str, Any]) -> str:
    """The facts as people read them, with what to install for what is missing."""
    facts = {key: value for key, value in result.items() if key != "optional"}
    lines = [f"{key:<14} {value}" for key, value in facts.items()]
    for name, version in result["optional"].items():
        extra, needed_for = OPTIONAL[name]
        fix = f'missing: pip install "scene4d[{extra}]"' if extra else "missing (no wheel; install it by its own guide)"
        lines.append(f"{name:<14} {version or fix}   ({needed_for})")
    return "\n".join(lines)


def _torch() -> dict:
    import torch

    device = torch.cuda.get_device_name(0) if torch.cuda.is_available() else None
    return {"torch": torch.__version__, "threads": torch.get_num_threads(), "cuda": device}


def _native() -> dict:
    """Render one Gaussian: the shortest proof that the native kernels load and run."""
    try:
        import torch

        from scene4d import Cameras, Gaussians, render

        one = Gaussians(
            means=torch.tensor([[0.0, 0.0, 1.0]]),
            quats=torch.tensor([[1.0, 0, 0, 0]]),
            scales=torch.full((1, 3), 0.1),
            opacities=torch.ones(1),
            sh=torch.zeros(1, 1, 3),
        )
        camera = Cameras(viewmats=torch.eye(4), Ks=torch.tensor([[8.0, 0, 4], [0, 8, 4], [0, 0, 1]]), width=8, height=8)
        visible = float(render(one, camera).known_alpha.max()) > 0.5
        return {"native": "ok" if visible else "renders nothing: reinstall scene4d"}
    except Exception as error:
        return {"native": f"{type(error).__name__}: {error}"}


def _version(name: str) -> str | None:
    try:
        importlib.import_module(name)
    except (ImportError, RuntimeError, OSError):
        return None
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return sys.modules[name].__dict__.get("__version__", "unknown")
