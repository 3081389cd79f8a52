"""Options of the verbs that make and show scenes: reconstruct, render, export, view."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar, Literal

from scene4d.apps.terminal.arguments import FILE, OUTPUT, POSITIONAL
from scene4d.apps.terminal.option_checks import check_at_least, check_positive, check_within, flag
from scene4d.errors import ConfigError

STILL, OVER_TIME = (".ply", ".png", ".glb", ".obj"), (".npz", ".mp4")
LEAST_WIDTH = 16
"""Pixels below which a picture holds nothing to reconstruct from."""


@dataclass(frozen=True)
class ReconstructOptions:
    """Reconstruct a recording: static and moving Gaussians, persistent ids, motion over time."""

    EXAMPLES: ClassVar[tuple[str, ...]] = (
        "scene4d reconstruct my_recording -o scene.s4d",
        "scene4d reconstruct lerobot_set --episode 2 --cameras left right --max-frames 40",
        "scene4d reconstruct photos --from-pictures --holdout 8",
    )
    GROUPS: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "what is read": (
            "episode",
            "cameras",
            "max_frames",
            "stride",
            "size",
            "holdout",
        ),
        "how it is reconstructed": (
            "fit",
            "fused",
            "from_pictures",
            "depth_weights",
        ),
        "what is written": ("output",),
    }

    source: Annotated[Path, POSITIONAL]
    """A recording: folder or file of any format that `scene4d check` knows."""
    output: Annotated[Path, OUTPUT] = Path("scene.s4d")
    """File to write."""
    fit: bool = False
    """Refine the static part by rendering (minutes)."""
    fused: bool = False
    """One camera, still scene: one set of Gaussians for all instants, less sharp and ten times smaller, as viewers of
    splats take it; by default each stretch of time has its own."""
    from_pictures: bool = False
    """Use colour and poses alone (minutes): three fixed cameras or more follow what moves; else the scene is still."""
    depth_weights: Path | None = None
    """Folder of a Hugging Face depth estimator (safetensors) for recordings without depth; needs the extra [depth]."""
    holdout: str = ""
    """Keep back every N-th frame (a number) or one camera (its name), and report how well they are shown. Without those
    frames the scene holds no actions and robot states, which `forecast` and `act` need."""
    cameras: tuple[str, ...] = ()
    """Cameras to reconstruct from; by default all with depth."""
    episode: int = 0
    """Which recording, where the source holds several."""
    max_frames: int = 0
    """Most frames to read; 0 = all."""
    stride: int = 1
    """Read every how many-th frame."""
    size: int = 0
    """Width in pixels to resize images to, heights in proportion; 0 = as recorded."""

    def __post_init__(self) -> None:
        clash = [flag(name) for name in ("fit", "fused", "depth_weights") if getattr(self, name)]
        if self.from_pictures and clash:
            fix = "leave out the one or the other"
            raise ConfigError("does nothing with --from-pictures", field=", ".join(clash), fix=fix)
        check_at_least(1, stride=self.stride)
        check_at_least(0, max_frames=self.max_frames)
        check_at_least(LEAST_WIDTH if self.size else 0, size=self.size)


@dataclass(frozen=True)
class RenderOptions:
    """Render a scene over its own time."""

    EXAMPLES: ClassVar[tuple[str, ...]] = (
        "scene4d render out/demo/future.s4d -o orbit.mp4",
        "scene4d render out/demo/scene.s4d --camera left --time 0.2 -o one.png",
        "scene4d render scene.s4d --what depth -o depth_pictures",
    )
    GROUPS: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "where from": (
            "camera",
            "size",
            "scale",
        ),
        "what is shown": (
            "what",
            "time",
            "num_frames",
        ),
        "what is written": (
            "output",
            "fps",
        ),
    }

    scene: Annotated[Path, POSITIONAL]
    """A .s4d file, or splats as `scene4d export` takes them."""
    output: Annotated[Path, OUTPUT] = Path("render.mp4")
    """out.mp4, out.png (one picture), or a folder name for a PNG sequence."""
    camera: str = "orbit"
    """A camera name stored in the scene, "orbit" (a swing round what the stillest stored camera shows; a full turn
    where none is stored), or a JSON file with viewmats, Ks, width, height."""
    what: Literal["colour", "depth", "flow"] = "colour"
    """What to show."""
    size: tuple[int, int] = (480, 360)
    """Width and height in px of an orbit; other cameras keep their own size times --scale."""
    scale: float = 1.0
    """Enlarge the images of named and file cameras by this factor."""
    time: float | None = None
    """Second of the scene that a single picture shows; by default the first."""
    num_frames: int | None = None
    """Frames in the video; by default one for each instant of the scene (at least 48 for an orbit)."""
    fps: float = 12.0
    """Frames a second of the video."""

    def __post_init__(self) -> None:
        check_at_least(1, size=min(self.size), num_frames=self.num_frames)
        check_positive(scale=self.scale, fps=self.fps)
        single = self.output.suffix.lower() == ".png"
        if single and self.num_frames not in (None, 1):
            fix = "leave it out, or name a folder or an .mp4"
            raise ConfigError("does not go into one picture", field="--num-frames", found=self.num_frames, fix=fix)
        if self.time is not None and not single:
            raise ConfigError("is of a single picture", field="--time", fix="name a .png with -o, or leave it out")


@dataclass(frozen=True)
class ExportOptions:
    """Export by the suffix of the output: .ply splats or points, .npz flow, .png depth, .mp4 film, .glb .obj mesh."""

    EXAMPLES: ClassVar[tuple[str, ...]] = (
        "scene4d export out/demo/scene.s4d -o scene.ply",
        "scene4d export out/demo/future.s4d --every 4 -o points.ply --points",
        "scene4d export scene.s4d -o room.glb --voxel 0.01",
        "scene4d export scene.s4d --what objects -o objects.ply",
    )

    GROUPS: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "what is exported": ("what", "time", "every", "points", "mesh"),
        "how splats that come in are read": ("as_points", "strict", "nerfstudio", "nerfstudio_data"),
        "pictures": ("camera", "size", "scale", "fps"),
        "meshes": ("voxel", "reach", "views", "tsdf"),
        "what is written": ("output",),
    }

    scene: Annotated[Path, POSITIONAL]
    """A .s4d file, or splats: .ply (INRIA, 2DGS, Mip-Splatting, compressed), .splat, .spz, .ksplat, .sog, or a folder
    with SOG's meta.json."""
    output: Annotated[Path, OUTPUT] = Path("scene.ply")
    """File to write; with --every, of .ply .png .glb .obj, or --what objects, a folder of that name without the
    suffix."""
    time: float | None = None
    """Second to export; by default the first, of objects the last."""
    every: int = 0
    """Export every K-th instant as NNNN files in a folder (.npz and .mp4: every K-th instant in one file)."""
    points: bool = False
    """A plain .ply point cloud with colours, and vx vy vz (m to the next instant) where something moves."""
    mesh: bool = False
    """A .ply that comes out is a mesh."""
    as_points: bool = False
    """Take the .ply that comes in for a plain point cloud or mesh, not for splats."""
    strict: bool = False
    """Refuse splats with impossible values instead of mending them with a count."""
    nerfstudio: Annotated[Path | None, FILE] = None
    """dataparser_transforms.json of the nerfstudio run that splats were exported from: they go back into the world
    of the recording."""
    nerfstudio_data: Annotated[Path | None, FILE] = None
    """The transforms.json that run was trained on, where it says applied_transform."""
    camera: str = ""
    """A camera stored in the scene, "orbit", or a JSON file with viewmats, Ks, width, height. By default pictures are
    taken from an orbit, and meshes from all stored cameras."""
    what: Literal["colour", "depth", "flow", "objects"] = "colour"
    """What an .mp4 shows. "objects" with a .ply: what moves rigidly together, or never moved and is one by place and
    colour, each as a .ply of its own beside objects.json."""
    size: tuple[int, int] = (480, 360)
    """Width and height in px of an orbit; other cameras keep their own size times --scale."""
    scale: float = 1.0
    """Enlarge the images of stored and file cameras by this factor."""
    fps: float = 12.0
    """Frames a second of an .mp4."""
    voxel: float = 0.0
    """Edge in m of the voxels of a mesh; 0 = as wide as a pixel."""
    reach: float = 0.0
    """Leave depth beyond so many m from the camera out of a mesh (small voxels need a small scene); 0 = none."""
    views: int = 48
    """Most views that a mesh is made from."""
    tsdf: Literal["scene4d", "open3d"] = "scene4d"
    """Who makes the mesh; open3d needs its extra."""

    def __post_init__(self) -> None:
        check_at_least(0, every=self.every, voxel=self.voxel, reach=self.reach)
        check_at_least(1, views=self.views, size=min(self.size))
        check_positive(scale=self.scale, fps=self.fps)
        if self.output.suffix.lower() not in (*STILL, *OVER_TIME):
            found, expected = self.output.suffix or "no suffix", [*STILL, *OVER_TIME]
            raise ConfigError("cannot be written", file=self.output, field="output", found=found, expected=expected)
        if self.what == "objects" and (self.output.suffix.lower() not in (".ply", ".mp4") or self.mesh):
            fix = "name a .ply, for a folder with one for each object, or an .mp4"
            raise ConfigError("is not exported as this", field="--what", found=self.what, file=self.output, fix=fix)
        if self.what == "objects" and self.every and self.output.suffix.lower() == ".ply":
            raise ConfigError("is of one instant", field="--every", fix="leave it out, or name an .mp4")
        if self.points and self.mesh:
            raise ConfigError("is one or the other", field="points, mesh", fix="leave one out")
        if self.nerfstudio is not None and (self.as_points or self.scene.suffix.lower() == ".s4d"):
            raise ConfigError("is for splats that nerfstudio exported", field="nerfstudio", found=self.scene)
        if self.time is not None and (self.every or self.output.suffix.lower() in OVER_TIME):
            raise ConfigError("is one instant, the output is many", field="time", fix="leave out --time or --every")


@dataclass(frozen=True)
class ViewOptions:
    """Look at a scene in the browser."""

    EXAMPLES: ClassVar[tuple[str, ...]] = (
        "scene4d view out/demo/scene.s4d",
        'scene4d view out/demo/scene.s4d --task "open the door" --steps 24',
    )
    GROUPS: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "what is done in it": (
            "task",
            "weights",
            "steps",
            "seed",
            "proprio",
            "goal",
        ),
        "what is shown": (
            "fps",
            "max_splats",
        ),
        "where it listens": (
            "host",
            "port",
            "allow_remote",
            "seconds",
        ),
    }

    scene: Annotated[Path, POSITIONAL]
    """A .s4d file, or splats as `scene4d export` takes them."""
    host: str = "127.0.0.1"
    """Address to listen at."""
    port: int = 8080
    """Port; the next free one where it is taken, 0 = any free one."""
    task: str = ""
    """Let the agent do this in the scene at once ("open the door"); the predicted instants come behind the others."""
    weights: Path | None = None
    """Weights of the agent: a file, or the name of shipped ones (small, tiny); by default small."""
    steps: int = 24
    """Steps that the agent takes."""
    seed: int = 0
    """Seed of its rollouts, until another is typed in."""
    proprio: tuple[float, ...] | None = None
    """The robot's state at the last observed instant (hand x y z in m, gripper opening in m), where the scene does not
    hold it."""
    goal: tuple[float, float, float] | None = None
    """Where what the task is about should come to be (x y z in m, world), where the scene does not show it."""
    fps: float = 12.0
    """Instants a second while it plays."""
    max_splats: int = 60_000
    """Splats sent at most; of more an even share is drawn, larger."""
    seconds: float | None = None
    """Stop after so long; by default when interrupted."""
    allow_remote: bool = False
    """Let other machines in at a --host that they reach; they need the address with the token that is printed."""

    def __post_init__(self) -> None:
        check_at_least(1, steps=self.steps, max_splats=self.max_splats)
        check_at_least(0, seed=self.seed, seconds=self.seconds)
        check_positive(fps=self.fps)
        check_within(0, 65535, port=self.port)
