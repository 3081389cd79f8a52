"""Any recording as what nerfstudio's dataparsers return, made without nerfstudio: files, cameras, placement, points."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from scene4d.data.detect import open_recordings
from scene4d.data.files.json_files import read_json
from scene4d.data.formats.posed.nerfstudio_write import MILLIMETRE, TRANSFORMS, write_nerfstudio
from scene4d.data.video.images import open_image, read_depth_codes
from scene4d.errors import ConfigError
from scene4d.gaussians.formats.nerfstudio import Placement, cameras_to_nerfstudio, placement_of
from scene4d.geometry.camera import CV_FROM_GL, invert_rigid, transform_points, unproject


@dataclass(frozen=True)
class NerfScene:
    """One split of a recording: n pictures, with everything in nerfstudio's world."""

    images: list[Path]
    depths: list[Path] | None
    """16-bit PNG in mm of the recording's world; None where a picture has none."""
    masks: list[Path] | None
    """White where a picture is usable."""
    camera_to_worlds: Tensor
    """[n 3 4] OpenGL axes."""
    Ks: Tensor
    """[n 3 3] px."""
    sizes: Tensor
    """[n 2] int64: width, height px."""
    times: Tensor
    """[n] in [0, 1] over the recording."""
    placement: Placement
    points: Tensor
    """[p 3] of the training pictures' depth; p = 0 where there is none."""
    colors: Tensor
    """[p 3] uint8."""


def pictures_of_recording(
    source: Path, *, store: Path, recording: int = 0, cameras: Sequence[str] = (), every: int = 1
) -> Path:
    """The folder in `store` that holds a recording's pictures as `write_nerfstudio` writes them, made when not there.

    Its name tells the source as it is now (names, sizes and times of its files) and the options, so that a recording
    that has changed is written anew.

    Raises:
        ConfigError: there is no such recording, or `store` lies inside the source.
        What the reader and the writer raise.
    """
    if source.is_dir() and store.resolve().is_relative_to(source.resolve()):
        problem = "lies inside the recording, which stays untouched"
        raise ConfigError(problem, file=source, field="store", found=store, fix="name a folder elsewhere")
    options = [str(source.resolve()), recording, list(cameras), every, _files(source)]
    digest = hashlib.sha256(json.dumps(options).encode()).hexdigest()[:12]
    folder = store / f"{source.resolve().name}-{recording}-{digest}"
    if not folder.is_dir():
        recordings = open_recordings(source)
        if not 0 <= recording < len(recordings):
            found, expected = recording, f"0..{len(recordings) - 1}"
            raise ConfigError("no such recording", file=source, field="recording", found=found, expected=expected)
        write_nerfstudio(folder, recordings[recording], cameras=cameras or None, every=every)
    return folder


def read_nerf_scene(
    folder: Path, *, split: str = "train", eval_interval: int = 8, scaled: bool = True, num_points: int = 100_000
) -> NerfScene:
    """One split of the pictures in a folder of `write_nerfstudio`.

    Args:
        split: train, or val / test: every `eval_interval`-th picture in order of time (0: all in every split).
        scaled: whether cameras are brought into [-1, 1]; otherwise the world stays as it is, in metres.
    Raises:
        ConfigError: no such split, or an interval that leaves no picture to train on.
        DataFormatError: the folder is damaged.
    """
    if split not in ("train", "val", "test"):
        raise ConfigError("no such split", field="split", found=split, expected=["train", "val", "test"])
    if eval_interval < 0 or eval_interval == 1:
        fix = "give 0 to use all pictures for both"
        raise ConfigError("leaves nothing to train on", field="eval_interval", found=eval_interval, fix=fix)
    rows = read_json(folder / TRANSFORMS, fix=f"remove {folder}")["frames"]
    rows.sort(key=lambda row: (row["time"], row["file_path"]))
    matrices = torch.tensor([row["transform_matrix"] for row in rows], dtype=torch.float64)
    viewmats = invert_rigid(matrices * matrices.new_tensor([*CV_FROM_GL, 1.0]))
    placement = placement_of(viewmats) if scaled else Placement(torch.eye(4, dtype=torch.float64), 1.0)
    held = [eval_interval > 0 and i % eval_interval == eval_interval // 2 for i in range(len(rows))]
    chosen = [i for i in range(len(rows)) if not eval_interval or held[i] == (split != "train")]
    trained = [i for i in range(len(rows)) if not held[i]]
    Ks = torch.tensor([[[r["fl_x"], 0, r["cx"]], [0, r["fl_y"], r["cy"]], [0, 0, 1]] for r in rows])
    times = torch.tensor([row["time"] for row in rows], dtype=torch.float64)
    points, colors = _points(
        folder, [rows[i] for i in trained], viewmats=viewmats[trained], Ks=Ks[trained], most=num_points
    )
    listed = lambda key: [folder / rows[i][key] for i in chosen] if all(key in row for row in rows) else None
    return NerfScene(
        images=listed("file_path") or [],
        depths=listed("depth_file_path"),
        masks=listed("mask_path"),
        camera_to_worlds=cameras_to_nerfstudio(viewmats[chosen], placement),
        Ks=Ks[chosen],
        sizes=torch.tensor([[rows[i]["w"], rows[i]["h"]] for i in chosen]).reshape(-1, 2),
        times=((times - times.min()) / (times.max() - times.min()).clamp_min(1e-9))[chosen].float(),
        placement=placement,
        points=(transform_points(placement.nerfstudio_from_world, points.double()) * placement.scale).float(),
        colors=colors,
    )


def _points(
    folder: Path, rows: list[dict[str, Any]], *, viewmats: Tensor, Ks: Tensor, most: int
) -> tuple[Tensor, Tensor]:
    """Points [p 3] m of our world and colours [p 3] uint8, as many from each picture with depth."""
    points, colors = [torch.zeros(0, 3)], [torch.zeros(0, 3, dtype=torch.uint8)]
    generator = torch.Generator().manual_seed(0)
    for row, viewmat, K in zip(rows, viewmats.float(), Ks, strict=True):
        if "depth_file_path" not in row or not most:
            continue
        depth = torch.from_numpy(read_depth_codes(folder / row["depth_file_path"])).float() * MILLIMETRE
        seen = (depth > 0).flatten().nonzero()[:, 0]
        picked = seen[torch.randperm(len(seen), generator=generator)[: -(-most // len(rows))]]
        rgb = torch.from_numpy(np.array(open_image(folder / row["file_path"]).convert("RGB")))
        points.append(unproject(depth, viewmat, Ks=K).reshape(-1, 3)[picked])
        colors.append(rgb.reshape(-1, 3)[picked])
    return torch.cat(points)[:most], torch.cat(colors)[:most]


def _files(source: Path) -> list[list[Any]]:
    """Name, size and time of change of every file of a recording."""
    if source.is_file():
        stat = source.stat()
        return [[source.name, stat.st_size, stat.st_mtime_ns]]
    found = []
    for folder, _, names in os.walk(source):
        for name in sorted(names):
            stat = os.lstat(os.path.join(folder, name))
            found.append([os.path.relpath(os.path.join(folder, name), source), stat.st_size, stat.st_mtime_ns])
    return sorted(found)
