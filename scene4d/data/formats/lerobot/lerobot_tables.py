"""Columns of a LeRobot table as arrays; every failure names the file and the column."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from scene4d.data.timeline.resync import RESYNC_FIX
from scene4d.errors import DataFormatError, TimestampError


def times_of(table: pa.Table, *, fps: float, file: Path, loose: bool = False) -> np.ndarray:
    """Seconds from the episode's start, float64: exactly k / fps where the single-precision column agrees.

    Where `loose`, as the column has them, in whatever order (for `ResyncedRecording`).

    Raises:
        TimestampError: times do not increase, or leave the grid of the data set's rate, on which videos are written.
    """
    even = np.arange(len(table)) / fps
    if "timestamp" not in table.column_names:
        return even
    stamps = table["timestamp"].to_numpy().astype(np.float64)
    steps = np.diff(stamps)
    where = {"file": file, "field": "timestamp"}
    if loose and np.isfinite(stamps).all() and not _coarse(table, stamps):
        return stamps - stamps.min()
    if not np.isfinite(stamps).all() or not (steps > 0).all():
        frame = int((~(steps > 0)).argmax()) + 1
        raise TimestampError("times do not increase", **where, frame=frame, found=stamps[frame], fix=RESYNC_FIX)
    apart = np.abs(stamps - stamps[0] - even)
    # Seconds since 1970 in single precision are two minutes coarse: nothing can be learned from them.
    if not (apart < 0.5 / fps).all():
        frame = int((~(apart < 0.5 / fps)).argmax())
        coarse, fix = _coarse(table, stamps), "write seconds from the episode's start, one row a frame of video"
        fix = fix if coarse else f"{fix}, or {RESYNC_FIX}"
        problem = "wall-clock times have lost their precision" if coarse else "times leave the data set's rate"
        found, expected = f"{stamps[frame] - stamps[0]:.4f} s", f"{even[frame]:.4f} s at {fps:g} a second"
        raise TimestampError(problem, **where, frame=frame, found=found, expected=expected, fix=fix)
    return even if (apart < 1e-3).all() else stamps - stamps[0]


def _coarse(table: pa.Table, stamps: np.ndarray) -> bool:
    """Whether times are seconds since 1970 in single precision."""
    return bool(stamps[0] > 1e6) and table["timestamp"].type == pa.float32()


def numbers_of(table: pa.Table, name: str, *, shape: Sequence[int], file: Path) -> np.ndarray:
    """A column as an array [t *shape] ([t] for shape [1]).

    Raises:
        DataFormatError: the rows are not of that shape.
    """
    column = table[name].combine_chunks()
    try:
        while pa.types.is_list(column.type) or pa.types.is_fixed_size_list(column.type):
            column = column.flatten()
        values = column.to_numpy(zero_copy_only=False)
        values = values.reshape(len(table), *([] if list(shape) == [1] else shape))
    except (ValueError, pa.ArrowException) as error:
        problem = "rows have another shape"
        raise DataFormatError(problem, file=file, field=name, found=error, expected=list(shape)) from error
    if values.dtype.kind not in "fiub":
        raise DataFormatError("is not a column of numbers", file=file, field=name, found=table[name].type)
    return np.array(values, np.float32 if values.dtype.kind == "f" else None)


def images_of(column: pa.ChunkedArray | pa.Array, *, name: str, file: Path) -> list[bytes]:
    """The encoded images of a column."""
    rows: list[Any] = [None]
    if pa.types.is_struct(column.type) and "bytes" in [f.name for f in column.type]:
        rows = [row and row["bytes"] for row in column.to_pylist()]
    images = [data for data in rows if data is not None]
    if len(images) < len(rows):
        expected = "struct<bytes, path> with bytes"
        raise DataFormatError("holds no encoded images", file=file, field=name, found=column.type, expected=expected)
    return images


def open_parquet(file: Path) -> pq.ParquetFile:
    """A parquet file of which only the footer has been read.

    Raises:
        DataFormatError: missing, cut short, or with names that are no UTF-8.
    """
    try:
        source = pq.ParquetFile(file)
        _ = source.schema_arrow.names  # decoded here, where it can still be refused
        return source
    except FileNotFoundError as error:
        raise DataFormatError("is missing", file=file, fix="was the data set copied whole?") from error
    except UnicodeDecodeError as error:
        fix = "copy it again, or write it anew with names in UTF-8"
        where = {"file": file, "field": "schema", "found": error.reason, "expected": "UTF-8"}
        raise DataFormatError("the names of its columns cannot be read", **where, fix=fix) from error
    except (pa.ArrowException, OSError) as error:
        fix = "not finalised, or cut short: copy it again, or keep what is whole: scene4d repair SRC -o DST"
        raise DataFormatError("is no parquet file", file=file, found=error, fix=fix) from error


def whole_table(source: pq.ParquetFile, *, columns: Sequence[str] | None, file: Path) -> pa.Table:
    """These columns of a parquet file (by default all), every value checked.

    Raises:
        DataFormatError: damaged, or a text is no UTF-8.
    """
    try:
        table = source.read(columns=None if columns is None else list(columns))
        for name, column in zip(table.column_names, table.columns, strict=True):
            try:
                column.validate(full=True)
            except pa.ArrowException as error:
                raise DataFormatError("cannot be read", file=file, field=name, found=str(error)[:80]) from error
        return table
    except (pa.ArrowException, OSError) as error:
        raise DataFormatError("cannot be read", file=file, found=str(error)[:80], fix="copy it again") from error
