"""`scene4d export`: a 4D scene or splats to what other tools open: splats, points, flow, depth, film, mesh."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from scene4d.apps.compose.scene_files import still_scene
from scene4d.apps.terminal.progress import counter_shown
from scene4d.apps.terminal.scene_pictures import (
    choose_cameras,
    pictures_of,
    read_cameras,
    render_over_time,
    write_pictures,
)
from scene4d.apps.verbs.export_objects import in_object_colours, objects_of_file, write_objects
from scene4d.apps.verbs.options.scenes import STILL, ExportOptions
from scene4d.errors import ConfigError, DataFormatError
from scene4d.files import atomic_file, atomic_folder, sole_writer
from scene4d.gaussians.edit import prune
from scene4d.gaussians.formats.mesh import Mesh, mesh_from_depth
from scene4d.gaussians.formats.nerfstudio import from_nerfstudio, read_placement
from scene4d.gaussians.formats.open3d import mesh_from_depth_open3d
from scene4d.gaussians.formats.ply import write_ply
from scene4d.gaussians.formats.points import (
    gaussians_from_points,
    read_point_cloud,
    robust_bounds,
    write_flow_npz,
    write_gaussian_points,
)
from scene4d.gaussians.formats.splat_files import KNOWN, is_splats, open_splats
from scene4d.gaussians.formats.splat_notes import Splats
from scene4d.gaussians.formats.trimesh import write_mesh
from scene4d.gaussians.s4d.s4d import S4DFile, open_s4d
from scene4d.geometry.camera import orbit
from scene4d.render.render import render
from scene4d.scene import Scene4D, alive_at
from scene4d.types import Cameras, Frames, Gaussians

DEEPEST_MM = 65535


@dataclass(frozen=True)
class Source:
    """What is exported: all instants [t] s, cameras over them, and the scene with those instants that are needed."""

    times: list[float]
    cameras: dict[str, Cameras]
    scene: Scene4D
    splats: Splats | None = None
    """What came in, where it was a file of splats."""
    file: S4DFile | None = None
    """What came in, where it was a .s4d."""


@sole_writer
def run_export(options: ExportOptions) -> dict[str, Any]:
    """Read, convert, write; returns {output, source, times, bytes, mended, left_out, num_rows or num_faces}.

    times: seconds exported; mended: what was impossible in splats that came in, by rule; left_out: what was not read of
    them, or otherwise; num_rows: splats, points or pixels with depth of all files together; num_faces: triangles;
    num_objects, with `what` objects: those that have a file.

    Raises:
        ConfigError: options that do not go together. What the readers and writers raise.
    """
    source = _open_source(options)
    suffix, output = options.output.suffix.lower(), options.output
    times = source.times[:: options.every or 1]
    counts: dict[str, int] = {}
    if suffix == ".npz":
        write_flow_npz(output, source.scene, times=times)
    elif suffix == ".mp4":
        times = _export_film(options, source, times=times)
    elif options.what == "objects":
        output, times = output.with_suffix(""), [source.times[-1] if options.time is None else options.time]
        objects = objects_of_file(source.scene, source.file)
        counts = write_objects(output, source.scene, objects=objects, time=times[0], points=options.points)
    elif not options.every:
        times = [source.times[0] if options.time is None else options.time]
        counts = _export_still(output, source, options=options, time=times[0])
    else:
        output = output.with_suffix("")
        cameras = _cameras(options, source, times=times) if suffix == ".png" else None
        with atomic_folder(output) as folder, counter_shown("exporting") as count:
            for index, time in enumerate(times):
                path = folder / f"{index * options.every:04d}{suffix}"
                found = _export_still(path, source, options=options, time=time, camera=cameras and cameras[index])
                counts = {k: counts.get(k, 0) + v for k, v in found.items()}
                count(index + 1, len(times))
            if cameras:
                shown = {"viewmats": cameras.viewmats.tolist(), "Ks": cameras.Ks.tolist()}
                shown |= {"width": cameras.width, "height": cameras.height}
                (folder / "camera.json").write_text(json.dumps(shown))  # as `--camera FILE.json` reads it
    size = sum(p.stat().st_size for p in output.iterdir()) if output.is_dir() else output.stat().st_size
    mended, notes = ({}, ()) if source.splats is None else (source.splats.mended, source.splats.notes)
    return {
        "output": str(output), "source": str(options.scene), "times": times, "bytes": size, "mended": mended,
        "left_out": [note.as_dict() for note in notes], **counts,
    }  # fmt: skip


def _open_source(options: ExportOptions) -> Source:
    """What the options name; of a .s4d, one instant is read without the others."""
    path = options.scene
    match path.suffix.lower():
        case ".s4d":
            file = open_s4d(path)
            times = _instants(file)
            if options.time is not None and not times[0] <= options.time <= times[-1]:
                expected = f"{times[0]:g}..{times[-1]:g} s"
                found = options.time
                raise ConfigError("is no time of the scene", file=path, field="time", found=found, expected=expected)
            needed = range(len(times))
            if not options.every and options.output.suffix.lower() in STILL and options.what != "objects":
                late = int(np.searchsorted(times, times[0] if options.time is None else options.time, side="right"))
                needed = range(max(late - 1, 0), min(late + 1, len(times)))  # those around it
            return Source(times=times, cameras=file.cameras, scene=file.scene(frames=needed), file=file)
        case _ if options.as_points:
            points, colors = read_point_cloud(path)
            return Source(times=[0.0], cameras={}, scene=still_scene(gaussians_from_points(points, colors=colors)))
        case _ if is_splats(path):
            splats = open_splats(path, strict=options.strict)
            gaussians = splats.gaussians
            if options.nerfstudio is not None:
                placement = read_placement(options.nerfstudio, recording=options.nerfstudio_data)
                gaussians = from_nerfstudio(gaussians, placement)
            return Source(times=[0.0], cameras={}, scene=still_scene(gaussians), splats=splats)
    found, fix = path.suffix or "no suffix", "`scene4d reconstruct` makes a .s4d of a recording"
    raise DataFormatError("is nothing that can be exported", file=path, found=found, expected=f".s4d, {KNOWN}", fix=fix)


def scene_mesh(
    scene: Scene4D, cameras: Cameras, *, time: float, voxel: float = 0.0, reach: float = 0.0, tsdf: str = "scene4d"
) -> Mesh:
    """The surface of a scene at `time` s, fused from its rendered depth in cameras [v].

    The depth of the splat that takes half of the light is fused: the mean would bridge edges.

    Raises:
        ShapeError: the cameras see nothing. EnvError: a library is missing.
    """
    gaussians, frames = scene.at(time), []
    with torch.no_grad():
        for index in range(cameras.batch_shape[0]):
            seen = render(gaussians, cameras[index], extras=("depth_median",))
            depth = seen.extras["depth_median"][..., 0]
            frames.append(seen.replace(depth=depth * (depth <= (reach or math.inf)), extras={}))
    views = Frames.stack(frames)
    return (mesh_from_depth if tsdf == "scene4d" else mesh_from_depth_open3d)(views, voxel=voxel or None)


def _export_still(
    path: Path, source: Source, *, options: ExportOptions, time: float, camera: Cameras | None = None
) -> dict[str, int]:
    """One instant as one file; how much of what there is in it."""
    scene = source.scene
    match path.suffix.lower():
        case ".ply" if options.points and not options.mesh:
            flow = _flow_onward(scene, time)
            gaussians = _alive(scene, time) if flow is None else _alive(scene, time, flow=flow)
            write_gaussian_points(path, gaussians, flow=gaussians.extras.get("flow"))
            return {"num_rows": prune(gaussians, min_opacity=0.05).num_gaussians}
        case ".ply" if not options.mesh:
            gaussians = _alive(scene, time)
            write_ply(path, gaussians)
            return {"num_rows": gaussians.num_gaussians}
        case ".png":
            return _write_depth(path, scene, camera=camera or _cameras(options, source, times=[time])[0], time=time)
    mesh = scene_mesh(
        scene, _mesh_cameras(options, source), time=time, voxel=options.voxel, reach=options.reach, tsdf=options.tsdf
    )
    write_mesh(path, mesh)
    return {"num_faces": len(mesh.faces)}


def _export_film(options: ExportOptions, source: Source, *, times: list[float]) -> list[float]:
    """Write the .mp4; returns the seconds of its frames."""
    if options.camera in ("", "orbit"):
        # As `scene4d render` does: once round over a few instants would be over at once.
        times = torch.linspace(times[0], times[-1], max(len(times), 48), dtype=torch.float64).tolist()
    step = source.times[1] - source.times[0] if len(source.times) > 1 else 0.0
    when = torch.tensor(times, dtype=torch.float64)
    scene, what = source.scene, options.what
    if what == "objects":
        scene, what = in_object_colours(scene, objects_of_file(scene, source.file)), "colour"
    frames = render_over_time(scene, _cameras(options, source, times=times), times=when, flow_step=step)
    write_pictures(options.output, pictures_of(frames, what), fps=options.fps)
    return times


def _write_depth(path: Path, scene: Scene4D, *, camera: Cameras, time: float) -> dict[str, int]:
    """Depth in mm as a 16-bit PNG; 0 where less than half is covered, or beyond 65.535 m."""
    with torch.no_grad():
        frames = render(scene.at(time), camera)
    mm = (frames.known_depth.double() * 1000).round()
    usable = (frames.known_alpha >= 0.5) & mm.isfinite() & (mm <= DEEPEST_MM)
    mm = torch.where(usable, mm, 0.0).numpy().astype(np.uint16)
    with atomic_file(path) as temporary:
        Image.fromarray(mm).save(temporary, format="PNG")
    return {"num_rows": int((mm > 0).sum())}


def _cameras(options: ExportOptions, source: Source, *, times: list[float]) -> Cameras:
    """One camera for each of `times`: where cameras move, their pose at the instant nearest."""
    stored = source.cameras
    if len(source.scene.times) < len(source.times):  # instants were left unread, so cameras are looked up here
        nearest = np.abs(np.array(source.times)[None] - np.array(times)[:, None]).argmin(1)
        stored = {k: c if c.batch_shape == () else c[np.minimum(nearest, len(c.Ks) - 1)] for k, c in stored.items()}
    when = torch.tensor(times, dtype=torch.float64)
    return choose_cameras(
        source.scene, stored, camera=options.camera or "orbit", times=when, size=options.size, scale=options.scale
    )


def _mesh_cameras(options: ExportOptions, source: Source) -> Cameras:
    """At most `views` cameras [v], of one size, that see the scene from different places."""
    named = options.camera not in ("", "orbit")
    if named and options.camera.endswith(".json"):
        chosen = [read_cameras(Path(options.camera))]
    elif named:
        _cameras(options, source, times=source.times[:1])  # names those there are when there is no such one
        chosen = [source.cameras[options.camera]]
    elif source.cameras and options.camera != "orbit":
        chosen = list(source.cameras.values())
    else:
        return _rings_of(source.scene, num_views=options.views, size=options.size)
    width, height = round(chosen[0].width * options.scale), round(chosen[0].height * options.scale)
    flat = [c.resized(width, height).map(lambda x: x.reshape(-1, *x.shape[-2:])) for c in chosen]
    viewmats, Ks = torch.cat([c.viewmats for c in flat]).float(), torch.cat([c.Ks for c in flat]).float()
    # A camera that stands still has the same pose at every instant: one view of it is enough.
    _, first = np.unique(viewmats.flatten(1).numpy().round(4), axis=0, return_index=True)
    first = np.sort(first)
    first = first[np.linspace(0, len(first) - 1, min(options.views, len(first))).round().astype(int)]
    return Cameras(viewmats=viewmats[first], Ks=Ks[first], width=width, height=height)


def _rings_of(scene: Scene4D, *, num_views: int, size: tuple[int, int]) -> Cameras:
    """Cameras on three rings, from below to above, that look at the middle of the scene."""
    center, radius = robust_bounds(scene.at(float(scene.times[0])))
    each = -(-num_views // 3)
    rings = [
        orbit(center, radius=2.5 * radius, elevation=math.radians(angle), num_views=each, width=size[0], height=size[1])
        for angle in (-20, 20, 60)
    ]
    viewmats, Ks = torch.cat([c.viewmats for c in rings]), torch.cat([c.Ks for c in rings])
    return Cameras(viewmats=viewmats[:num_views], Ks=Ks[:num_views], width=size[0], height=size[1])


def _alive(scene: Scene4D, time: float, **extras: torch.Tensor) -> Gaussians:
    """The rows that exist at `time`, no empty slots."""
    gaussians = scene.at(time)
    return gaussians.replace(extras={**gaussians.extras, **extras}).pick(alive_at(scene, time) & (gaussians.ids >= 0))


def _flow_onward(scene: Scene4D, time: float) -> torch.Tensor | None:
    """Motion [n 3] m to the next instant, 0 where it is not known; None when there is none or nothing moves."""
    onward = [t for t in scene.times.tolist() if t > time]
    if not onward or not bool((scene.motion.skin_weights != 0).any()):
        return None
    return scene.flow(time, onward[0])[0].float()


def _instants(file: S4DFile) -> list[float]:
    if file.times.ndim != 1 or file.num_frames == 0:
        raise DataFormatError(
            "holds no single scene", file=file.path, field="times", found=list(file.times.shape),
            expected="[t], at least one instant", fix="export the samples one by one (Scene4D[i], write_s4d)",
        )  # fmt: skip
    return file.times.tolist()
