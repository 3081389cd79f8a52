"""Which formats and devices work here: rows of `scene4d doctor`, by name, and what to install for the rest."""

from __future__ import annotations

import importlib
from collections.abc import Mapping

DATA, SCENES = "scene4d.data.formats", "scene4d.gaussians.formats"
# name: module of its reader or writer, extra, libraries of that extra
FORMATS: Mapping[str, tuple[str, str, tuple[str, ...]]] = {
    "LeRobot v2.0 to v3.0": (f"{DATA}.lerobot.lerobot", "", ("pyarrow", "av")),
    "RGB-D folders (TUM, ScanNet, ...)": (f"{DATA}.rgbd.rgbd", "", ("PIL",)),
    "transforms.json": (f"{DATA}.posed.transforms", "", ("PIL",)),
    "videos + cameras.json": (f"{DATA}.robots.rig_folder", "", ("av",)),
    "RLBench, RLDS, AgiBot World": (f"{DATA}.robots.rlds", "", ("PIL",)),
    "HDF5 (ALOHA, robomimic, ...)": (f"{DATA}.hdf5.hdf5", "hdf5", ("h5py",)),
    "DROID": (f"{DATA}.robots.droid", "hdf5", ("h5py", "av")),
    "zarr replay buffers": (f"{DATA}.robots.zarr_buffer", "zarr", ("numcodecs",)),
    "zarr with JPEG XL (UMI)": (f"{DATA}.robots.zarr_store", "jpegxl", ("imagecodecs",)),
    "COLMAP": (f"{DATA}.posed.colmap", "colmap", ("pycolmap",)),
    "ROS logs (MCAP)": (f"{DATA}.ros.ros_recording", "mcap", ("mcap", "mcap_ros2")),
    "ROS logs (.bag, .db3)": (f"{DATA}.ros.ros_recording", "rosbag", ("rosbags",)),
    "depth as EXR": (f"{DATA}.rgbd.rgbd", "exr", ("OpenEXR",)),
    "splats (.ply, .splat, .spz, .ksplat, SOG)": (f"{SCENES}.splat_files", "", ()),
    "mesh files, GLB": (f"{SCENES}.trimesh", "geometry", ("trimesh",)),
    "meshes out of a scene": (f"{SCENES}.mesh", "geometry", ("skimage.measure",)),
    "Open3D objects": (f"{SCENES}.open3d", "open3d", ("open3d",)),
}


def formats_here() -> dict[str, dict[str, str | bool]]:
    """{format: {works, extra, lacking}}: `extra` of the package that it needs, `lacking` what could not be imported."""
    rows: dict[str, dict[str, str | bool]] = {}
    for name, (reader, extra, libraries) in FORMATS.items():
        lacking = [module for module in (reader, *libraries) if not _imports(module)]
        rows[name] = {"works": not lacking, "extra": extra or "none", "lacking": ", ".join(lacking)}
    return rows


def devices_here() -> dict[str, dict[str, str | bool]]:
    """{device: {works, with}}: `with` says by which kernels, or why not."""
    import torch

    from scene4d.errors import EnvError
    from scene4d.native import cuda, ops

    try:
        best = ops.INSTRUCTION_SETS[ops.native_module().best_instruction_set()]
        rows: dict[str, dict[str, str | bool]] = {"cpu": {"works": True, "with": f"native kernels, {best}"}}
    except EnvError as error:
        return {"cpu": {"works": False, "with": str(error)}}
    if torch.cuda.is_available():
        why_not = cuda.why_not(torch.device("cuda"))
        rows["cuda"] = {"works": True, "with": f"slowly: {why_not}" if why_not else "native kernels"}
    else:
        why_not = "torch was built without CUDA" if torch.version.cuda is None else "torch finds no GPU"
        rows["cuda"] = {"works": False, "with": why_not}
    mps = torch.backends.mps.is_available()
    rows["mps"] = {"works": mps, "with": "slowly: no kernels of its own" if mps else "torch finds no Apple GPU"}
    return rows


def _imports(module: str) -> bool:
    try:
        importlib.import_module(module)
    except (ImportError, RuntimeError, OSError):
        return False
    return True
