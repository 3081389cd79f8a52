"""The parts of a SOG scene: a folder with meta.json, or a zip of it; names and sizes are not believed."""

from __future__ import annotations

import struct
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from scene4d.errors import DataFormatError, SecurityError
from scene4d.gaussians.formats.splat_notes import check_size, read_whole
from scene4d.gaussians.s4d.container import MAX_JSON, check_directory

META = "meta.json"
MOST_RATIO, ALLOWANCE = 100, 1 << 20
"""Pictures are packed already: a member that grows by more than this when unpacked is none."""
FIX = "copy or export it again"


@dataclass(frozen=True)
class SogParts:
    """Where the files of a scene lie."""

    path: Path
    """The folder or the zip."""
    folder: str = ""
    """Of the zip in which meta.json lies."""

    def read(self, name: str) -> bytes:
        """The bytes of a file that meta.json names, or of meta.json.

        Raises:
            SecurityError: a name that leaves the scene, or more comes out than the file can hold.
            DataFormatError: missing, damaged or larger than 2 GiB.
        """
        if not isinstance(name, str) or name in ("", ".", "..") or any(c in name for c in "/\\:\0"):
            problem, fix = "names a file outside the scene; nothing was opened", "use names without folders"
            raise SecurityError(problem, file=self.path, field=META, found=repr(name)[:80], fix=fix)
        if self.path.is_dir():
            return self._read_file(name)
        return self._read_member(self.folder + name)

    def _read_file(self, name: str) -> bytes:
        place = self.path / name
        if place.resolve().parent != self.path.resolve():
            raise SecurityError("is a link to outside the scene; nothing was opened", file=place, field=META)
        if not place.is_file():
            raise DataFormatError("is missing", file=place, field=META, fix=FIX)
        if name == META and place.stat().st_size > MAX_JSON:
            found, expected = place.stat().st_size, f"<= {MAX_JSON} bytes"
            raise DataFormatError("is too long", file=place, field=META, found=found, expected=expected)
        return read_whole(place, what="a picture of the scene")

    def _read_member(self, name: str) -> bytes:
        where = {"file": self.path, "field": name[:80], "fix": FIX}
        try:
            with zipfile.ZipFile(self.path) as archive:
                if name not in archive.namelist():
                    raise DataFormatError("is missing", **where)
                entry = archive.getinfo(name)
                _check_entry(entry, path=self.path)
                with archive.open(entry) as member:
                    data = member.read(entry.file_size)
        except (zipfile.BadZipFile, OSError, EOFError, ValueError, RuntimeError, struct.error, zlib.error) as error:
            raise DataFormatError("is damaged", found=str(error)[:80], **where) from error
        if len(data) != entry.file_size:
            raise DataFormatError("is truncated", found=len(data), expected=entry.file_size, **where)
        return data


def sog_parts(path: Path) -> SogParts:
    """The parts of a scene: of a folder, of its meta.json, or of a .sog (zip).

    Raises:
        DataFormatError: there is no meta.json, or no whole zip. SecurityError: a name in the zip leaves it.
    """
    if path.is_dir():
        return SogParts(path)
    if path.name == META:
        return SogParts(path.parent)
    try:
        check_size(path.stat().st_size, path=path, what="a .sog")
        check_directory(path)
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, EOFError, struct.error, ValueError, NotImplementedError) as error:
        raise DataFormatError("is no .sog: no whole zip", file=path, found=str(error)[:80], fix=FIX) from error
    except OSError as error:
        raise DataFormatError(f"cannot be read: {error.strerror}", file=path, fix="check the path") from error
    for name in names:
        parts = PurePosixPath(name).parts
        if ".." in parts or name.startswith("/") or any(c in name for c in "\\:\0"):
            raise SecurityError("a member's name is unsafe; nothing was read", file=path, found=repr(name)[:80])
    scenes = sorted((name for name in names if PurePosixPath(name).name == META), key=lambda name: name.count("/"))
    if not scenes:
        raise DataFormatError("is no .sog: it has no meta.json", file=path, field=META, found=names[:5], fix=FIX)
    return SogParts(path, scenes[0].removesuffix(META))


def _check_entry(entry: zipfile.ZipInfo, *, path: Path) -> None:
    where = {"file": path, "field": entry.filename[:80]}
    if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED) or entry.flag_bits & 1:
        raise DataFormatError("is packed in another way than deflate, or encrypted", **where, fix=FIX)
    if entry.file_size > MOST_RATIO * entry.compress_size + ALLOWANCE or entry.compress_size > path.stat().st_size:
        found = f"{entry.file_size} bytes in {entry.compress_size}"
        raise SecurityError("claims more than it can hold", **where, found=found)
    most = MAX_JSON if entry.filename.endswith(".json") else path.stat().st_size + ALLOWANCE
    if entry.file_size > most:
        expected = f"<= {most} bytes"
        raise SecurityError("is too long", **where, found=entry.file_size, expected=expected)
