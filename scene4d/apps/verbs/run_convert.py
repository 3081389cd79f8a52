"""`scene4d convert`: any recording to LeRobot v3 with meta/cameras.json, mended where asked; its input is only read."""

from __future__ import annotations

import functools
import json
import math
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from scene4d.apps.terminal.progress import counter_shown
from scene4d.apps.training.processes import worker_pool
from scene4d.apps.verbs.options.recordings import ConvertOptions
from scene4d.data.detect import open_recordings
from scene4d.data.diagnose.calibration.sample import small_size
from scene4d.data.diagnose.repair.mend import MendedRecording, parse_mend
from scene4d.data.files.json_files import read_json
from scene4d.data.formats.lerobot import lerobot_layout as layout
from scene4d.data.formats.lerobot.lerobot import write_lerobot
from scene4d.data.formats.lerobot.lerobot_join import REPORT, join_lerobot, must_match
from scene4d.data.timeline.stretches import read_in_stretches
from scene4d.data.video.depth_codec import DEPTH_UNIT, LogDepth
from scene4d.disk_errors import writing
from scene4d.drafts import JOB, PARTS, claimed
from scene4d.errors import EXIT_INPUT, ConfigError, DepthError, ResourceError, Scene4DError
from scene4d.files import write_text
from scene4d.ledger import left_out
from scene4d.types import Episode, Recording

COARSE_UNIT = 1e-3  # m a step where depth reaches further than the fine unit
HEADROOM = 1.5  # other frames and episodes may reach further than the sample of the first
SAMPLES = 16
LEAST = (8, 8)  # px: pictures that nobody looks at
FINE_REACH = 65535 * DEPTH_UNIT


def run_convert(options: ConvertOptions) -> dict[str, Any]:
    """Write each recording apart, then join them.

    Returns {output, source, fixes, episodes, frames, bytes, resumed, skipped: [{index, path, error}], left_out: [{kind,
    field, camera, names, reason, fix, lost, recordings}] (what the readers met and did not use), seconds};
    report.json in the output holds the same without the last.

    Raises:
        ConfigError: an option does not fit, or an unfinished run had other ones. ResourceError: the output exists.
        What the readers and the writer raise, unless --skip-bad.
    """
    start = time.monotonic()
    _opened.cache_clear()  # the folder may have changed since the last run of this process
    _check_place(options)
    count = len(_opened(options))
    with claimed(options.output), writing(options.output), _workplace(options) as folder:
        resumed = sum(_part(options, k).is_dir() for k in range(count))
        failures = _write_parts(options, count)
        parts = [_part(options, k) for k in range(count) if _part(options, k).is_dir()]
        asked = {"output": str(options.output), "source": str(options.source), "fixes": list(options.fix)}
        report = {**asked, "resumed": resumed, "skipped": [failures[k] for k in sorted(failures)]}
        report["left_out"] = _left_out(options, count)
        written = join_lerobot(options.output, parts, report=report)
        shutil.rmtree(folder)
    written.pop("path")
    return {**report, **written, "seconds": round(time.monotonic() - start, 2)}


def _check_place(options: ConvertOptions) -> None:
    output, source = options.output.resolve(), options.source.resolve()
    if output == source or (source.is_dir() and output.is_relative_to(source)):
        fix = "name a folder elsewhere"
        raise ConfigError("lies inside the source, which stays untouched", field="output", found=output, fix=fix)
    if not _work_folder(options).exists():
        _refuse_output(options.output)


def _refuse_output(output: Path) -> None:
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise ResourceError("exists already", file=output, fix="name a new folder, or remove this one")


@contextmanager
def _workplace(options: ConvertOptions) -> Iterator[Path]:
    """The folder beside the output that keeps finished episodes until all are there; refused if of other options."""
    folder, job = _work_folder(options), options.job()
    if (options.output / REPORT).is_file():
        shutil.rmtree(folder, ignore_errors=True)  # of a run that was killed after its last step
    _refuse_output(options.output)
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / JOB
    if file.is_file():
        before = read_json(file, fix=f"remove {folder}")
        differ = [k for k in job if before.get(k) != json.loads(json.dumps(job[k]))]
        if differ:
            raise ConfigError(
                "is not what the unfinished run had", field=", ".join(differ), found=[job[k] for k in differ],
                expected=[before.get(k) for k in differ], fix=f"give the same options, or remove {folder}",
            )  # fmt: skip
    else:
        write_text(file, json.dumps(job))
    yield folder


def _write_parts(options: ConvertOptions, count: int) -> dict[int, dict[str, Any]]:
    """Write what is not there yet; returns what was skipped, by index."""
    left = [k for k in range(count) if not _part(options, k).is_dir()]
    failures: dict[int, dict[str, Any]] = {}

    def note(k: int, error: Scene4DError | None) -> None:
        if error is None:
            return
        if not options.skip_bad or error.exit_code != EXIT_INPUT:
            raise error
        failures[k] = {"index": k, "path": str(_opened(options)[k].path), "error": error.as_dict()}

    with counter_shown("converting") as shown:
        done = count - len(left)
        # The first fixes cameras, columns and the depth unit for all others.
        while left and not any(_part(options, k).is_dir() for k in range(count)):
            note(left[0], _write_part(options, left[0], first=None))
            left, done = left[1:], done + 1
            shown(done, count)
        first = next((_part(options, k) for k in range(count) if _part(options, k).is_dir()), None)
        for k, error in _each(options, left, first=first):
            note(k, error)
            done += 1
            shown(done, count)
    return failures


def _each(options: ConvertOptions, left: list[int], *, first: Path | None) -> Iterator[tuple[int, Scene4DError | None]]:
    if options.workers == 1 or len(left) < 2:
        yield from ((k, _write_part(options, k, first=first)) for k in left)
        return
    fix = "start it again with fewer --workers; what is finished is kept"
    with worker_pool(min(options.workers, len(left)), fix=fix) as pool:
        futures = {k: pool.submit(_write_part, options, k, first=first) for k in left}
        yield from ((k, future.result()) for k, future in futures.items())


def _write_part(options: ConvertOptions, index: int, *, first: Path | None) -> Scene4DError | None:
    """Write one recording as a data set of its own, which appears whole or not at all; returns why it could not."""
    part = _part(options, index)
    draft = part.with_name(f"draft-{part.name}")
    try:
        with writing(options.output):
            shutil.rmtree(draft, ignore_errors=True)
            _write_draft(draft, options, recording=_opened(options)[index], first=first)
            ledger = _opened(options)[index].read(0, 1, cameras=options.cameras or None, size=LEAST).info
            write_text(_ledger_file(options, index), json.dumps([e.as_dict() for e in left_out(ledger)]))
            draft.rename(part)
    except Scene4DError as error:
        shutil.rmtree(draft, ignore_errors=True)
        error.file = error.file or str(_opened(options)[index].path)
        return error
    return None


def _write_draft(draft: Path, options: ConvertOptions, *, recording: Recording, first: Path | None) -> None:
    fps, stretches = options.fps or _rate(options), functools.partial(_stretches, recording, options)
    if options.depth == "video":
        write_lerobot(draft, [stretches()], fps=fps, depth_video=_depth_video(options, recording, first=first))
    else:
        unit = _depth_unit(options, recording, first=first)
        try:
            write_lerobot(draft, [stretches()], fps=fps, depth_unit=unit)
        except DepthError:
            if first is not None or options.depth_unit or unit == COARSE_UNIT:
                raise
            # The sample did not show how far the first recording reaches.
            write_lerobot(draft, [stretches()], fps=fps, depth_unit=COARSE_UNIT)
    if first is not None:
        must_match(first, draft)


def _left_out(options: ConvertOptions, count: int) -> list[dict[str, Any]]:
    """The ledgers of all recordings that were written, equal entries once."""
    found: dict[str, list[int]] = {}
    for k in range(count):
        file = _ledger_file(options, k)
        for entry in json.loads(file.read_text()) if file.is_file() else ():
            found.setdefault(json.dumps(entry), []).append(k)
    return [{**json.loads(entry), "recordings": where} for entry, where in found.items()]


def _stretches(recording: Recording, options: ConvertOptions) -> Iterator[Episode]:
    """The recording as it is to be written, one stretch of frames after another."""
    done = 0
    for episode in read_in_stretches(recording, cameras=options.cameras or None, size=options.size):
        if not options.segments:
            kept = {n: {k: v for k, v in f.extras.items() if k != "segments"} for n, f in episode.views.items()}
            episode = episode.replace(views={n: f.replace(extras=kept[n]) for n, f in episode.views.items()})
        if options.fps:
            count = int(episode.valid.sum())
            times = episode.times.clone()
            times[episode.valid] = torch.arange(done, done + count, dtype=torch.float64) / options.fps
            episode, done = episode.replace(times=times), done + count
        yield episode


def _depth_unit(options: ConvertOptions, recording: Recording, *, first: Path | None) -> float:
    if options.depth_unit:
        return options.depth_unit
    if first is not None:
        cameras = read_json(first / layout.CAMERAS, fix="")["cameras"]
        return next((c["depth_unit"] for c in cameras.values() if "depth_unit" in c), DEPTH_UNIT)
    return DEPTH_UNIT if _reach(recording, options) * HEADROOM <= FINE_REACH else COARSE_UNIT


def _depth_video(options: ConvertOptions, recording: Recording, *, first: Path | None) -> LogDepth:
    """LeRobot's own range, or a wider one where the first recording reaches further; all recordings share one."""
    usual = LogDepth()
    if first is not None:
        features = read_json(first / layout.INFO, fix="")["features"].values()
        found = (layout.video_entry(f).get("depth_max") for f in features)
        return LogDepth(depth_max=next((far for far in found if far is not None), usual.depth_max))
    return LogDepth(depth_max=max(usual.depth_max, math.ceil(_reach(recording, options) * HEADROOM)))


def _reach(recording: Recording, options: ConvertOptions) -> float:
    """The farthest depth in some of the frames, m."""
    stride = max(1, recording.num_frames // SAMPLES)
    sample = recording.read(stride=stride, cameras=options.cameras or None, size=small_size(recording))
    return max((float(f.depth.max()) for f in sample.views.values() if f.depth is not None), default=0.0)


def _rate(options: ConvertOptions) -> float:
    """The rate of the first recording, without the last digits of a division."""
    return float(f"{_opened(options)[0].fps:.9g}")


@functools.lru_cache(maxsize=1)
def _opened(options: ConvertOptions) -> Sequence[Recording]:
    mends = tuple(parse_mend(text) for text in options.fix)
    fit, resync = (None if choice == "none" else choice for choice in (options.fit, options.resync))
    recordings = open_recordings(
        options.source, cameras=options.calibration, fov_deg=options.fov or None, fit=fit, resync=resync
    )
    return [MendedRecording(r, mends) for r in recordings] if mends else recordings


def _work_folder(options: ConvertOptions) -> Path:
    return options.output.resolve().with_name(f".{options.output.name}{PARTS}")


def _part(options: ConvertOptions, index: int) -> Path:
    return _work_folder(options) / f"episode-{index:06d}"


def _ledger_file(options: ConvertOptions, index: int) -> Path:
    return _work_folder(options) / f"left-out-{index:06d}.json"
