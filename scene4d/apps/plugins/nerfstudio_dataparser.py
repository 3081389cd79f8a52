"""The dataparser that nerfstudio finds by its entry point: `ns-train splatfacto scene4d-data --data RECORDING`.

Only nerfstudio imports this module. Pictures, depth and masks of the recording are written once, to a folder of their
own (nerfstudio reads files); the run's dataparser_transforms.json then leads splats that `ns-export` writes back into
the recording's world (`scene4d.gaussians.formats.nerfstudio`).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from scene4d.apps.compose.nerfstudio_scene import pictures_of_recording, read_nerf_scene
from scene4d.data.formats.posed.nerfstudio_write import MILLIMETRE
from scene4d.extras import optional

_WHAT = "the dataparser for nerfstudio"
dataparsers = optional("nerfstudio.data.dataparsers.base_dataparser", extra="nerfstudio", what=_WHAT)
cameras = optional("nerfstudio.cameras.cameras", extra="nerfstudio", what=_WHAT)
scene_box = optional("nerfstudio.data.scene_box", extra="nerfstudio", what=_WHAT)
registry = optional("nerfstudio.plugins.registry_dataparser", extra="nerfstudio", what=_WHAT)


@dataclass
class Scene4DDataParserConfig(dataparsers.DataParserConfig):
    """Any recording that scene4d reads."""

    _target: type = field(default_factory=lambda: Scene4DDataParser)
    """The dataparser."""
    data: Path = Path()
    """Folder or file of the recording."""
    recording: int = 0
    """Which one, where there are several (`scene4d check` counts them)."""
    cameras: tuple[str, ...] = ()
    """Cameras to take; by default all."""
    every: int = 1
    """Take every so many frames."""
    eval_interval: int = 8
    """Keep every so many pictures for evaluation, from 2; 0 = use all for both."""
    scaled: bool = True
    """Centre the cameras and scale them into [-1, 1]; otherwise metres stay metres."""
    points: int = 100_000
    """Most points to start from, out of the recorded depth."""
    store: Path = Path("outputs/scene4d")
    """Folder that keeps the pictures; not inside the recording."""


class Scene4DDataParser(dataparsers.DataParser):
    """Recordings as nerfstudio sees them: OpenGL cameras in a world that is centred, scaled, and z up."""

    config: Scene4DDataParserConfig
    includes_time = True

    def _generate_dataparser_outputs(self, split: str = "train", **kwargs: Any) -> Any:
        c = self.config
        path = pictures_of_recording(c.data, store=c.store, recording=c.recording, cameras=c.cameras, every=c.every)
        scene = read_nerf_scene(path, split=split, eval_interval=c.eval_interval, scaled=c.scaled, num_points=c.points)
        metadata: dict[str, Any] = {"depth_filenames": scene.depths, "depth_unit_scale_factor": MILLIMETRE}
        if len(scene.points):
            metadata |= {"points3D_xyz": scene.points, "points3D_rgb": scene.colors}
        column = lambda values: values.reshape(-1, 1)
        return dataparsers.DataparserOutputs(
            image_filenames=scene.images,
            cameras=cameras.Cameras(
                camera_to_worlds=scene.camera_to_worlds,
                fx=column(scene.Ks[:, 0, 0]),
                fy=column(scene.Ks[:, 1, 1]),
                cx=column(scene.Ks[:, 0, 2]),
                cy=column(scene.Ks[:, 1, 2]),
                width=column(scene.sizes[:, 0]),
                height=column(scene.sizes[:, 1]),
                times=column(scene.times),
                camera_type=cameras.CameraType.PERSPECTIVE,
            ),
            scene_box=scene_box.SceneBox(aabb=torch.tensor([[-1.0, -1.0, -1.0], [1.0, 1.0, 1.0]])),
            mask_filenames=scene.masks,
            metadata=metadata,
            dataparser_transform=scene.placement.nerfstudio_from_world[:3].float(),
            dataparser_scale=scene.placement.scale,
        )


scene4d_data = registry.DataParserSpecification(
    config=Scene4DDataParserConfig(), description="Any recording that scene4d reads"
)
