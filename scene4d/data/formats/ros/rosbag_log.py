"""ROS 1 bags (.bag) and ROS 2 bags (.db3, or a folder of files) as logs of messages, decoded by rosbags.

The message definitions that lie in a bag are never compiled: a type is the standard one, or its digest tells that it is
not. Nothing is unpacked beyond `MAX_UNPACKED`, and no size that a file claims is believed.
"""

from __future__ import annotations

import contextlib
import functools
import heapq
import io
import os
import re
import sqlite3
import urllib.parse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from scene4d.data.files.paths import natural_order
from scene4d.data.formats.ros.mcap_log import McapLog
from scene4d.data.formats.ros.ros_log import FIELDS, INFO, TF, Log, Message, Topic
from scene4d.data.formats.ros.ros_unpack import (
    MAX_UNPACKED,
    file_unpacked,
    from_bz2,
    from_lz4,
    message_unpacked,
    named_damage,
)
from scene4d.errors import DataFormatError
from scene4d.extras import optional
from scene4d.files import open_regular, require_regular
from scene4d.ledger import LeftOut

PARTS = (".db3", ".mcap", ".db3.zstd", ".mcap.zstd")
_OLD_TF = "tf/msg/tfMessage"  # of ROS 1, the same but for its name
_WHAT = "reading bags of ROS"


@dataclass(frozen=True)
class BagLog:
    """A .bag of ROS 1."""

    path: Path
    source = "ROS 1 bag"

    def topics(self) -> dict[str, Topic]:
        """All topics; those whose type is not the standard one of its name say so."""
        found: dict[str, Topic] = {}
        with _bag(self.path) as bag:
            for connection in bag.connections:
                kind = _kind(connection.msgtype)
                other = kind in FIELDS and connection.digest not in ("*", _digest("ROS1_NOETIC", kind))
                refused = f"its definition is not that of {kind}" if other else ""
                before = found.get(connection.topic, Topic(kind, 0, refused))
                if before.kind != kind:
                    refused = f"its messages are of two types: {before.kind}, {kind}"
                count = before.count + connection.msgcount
                found[connection.topic] = Topic(before.kind, count, before.refused or refused)
        return found

    def messages(self, topics: Sequence[str], *, start: int | None, stop: int | None) -> Iterator[Message]:
        """Messages of these topics that were logged from `start` to before `stop` (ns), in the order of logging."""
        with _bag(self.path) as bag:
            wanted = [c for c in bag.connections if c.topic in topics]
            for connection, logged, data in bag.messages(wanted, start=start, stop=stop) if wanted else ():
                kind = _kind(connection.msgtype)
                yield Message(connection.topic, logged, bytes(data), kind, functools.partial(_decode_ros1, kind=kind))


@dataclass(frozen=True)
class Db3Log:
    """An SQLite file of ROS 2."""

    path: Path
    source = "ROS 2 bag"

    def topics(self) -> dict[str, Topic]:
        """All topics; those that are not CDR, or whose type is not the standard one of its name, say so."""
        with _database(self.path) as base:
            counts = dict(base.execute("SELECT topic_id, COUNT(*) FROM messages GROUP BY topic_id"))
            rows = base.execute("SELECT id, name, type, serialization_format FROM topics").fetchall()
            digests = _digests(base)
        found = {}
        for number, name, kind, encoding in rows:
            kind = str(kind)
            refused = "" if encoding == "cdr" else f"its messages are {encoding}"
            digest = digests.get(kind)
            if kind in FIELDS and digest and digest != _digest("LATEST", kind):
                refused = refused or f"its definition is not that of {kind}"
            found[str(name)] = Topic(kind, int(counts.get(number, 0)), refused)
        return found

    def messages(self, topics: Sequence[str], *, start: int | None, stop: int | None) -> Iterator[Message]:
        """Messages of these topics that were logged from `start` to before `stop` (ns), in the order of logging."""
        with _database(self.path) as base:
            known = {row[0]: (str(row[1]), str(row[2])) for row in base.execute("SELECT id, name, type FROM topics")}
            wanted = [number for number, (name, _) in known.items() if name in topics]
            query = (
                f"SELECT id, topic_id, timestamp FROM messages WHERE topic_id IN ({', '.join('?' * len(wanted))}) "
                "AND timestamp >= ? AND timestamp < ? ORDER BY timestamp, id"
            )
            since, until = -(2**63) if start is None else start, 2**63 - 1 if stop is None else stop
            # The numbers first: what is sorted must not drag the pictures along.
            for number, topic, logged in base.execute(query, [*wanted, since, until]).fetchall():
                (data,) = base.execute("SELECT data FROM messages WHERE id = ?", [number]).fetchone()
                name, kind = known[topic]
                if not isinstance(data, bytes) or not isinstance(logged, int):
                    raise ValueError(f"message {number} holds no bytes, or no time")
                yield Message(name, logged, message_unpacked(data), kind, functools.partial(_decode_ros2, kind=kind))


@dataclass(frozen=True)
class FolderLog:
    """Files of ROS 2 that follow each other in one folder."""

    path: Path
    parts: tuple[Log, ...]
    source = "ROS 2 bag"

    def topics(self) -> dict[str, Topic]:
        """All topics of all files."""
        found: dict[str, Topic] = {}
        for name, topic in (item for part in self.parts for item in part.topics().items()):
            before = found.get(name, Topic(topic.kind, 0, topic.refused))
            found[name] = Topic(before.kind, before.count + topic.count, before.refused or topic.refused)
        return found

    def messages(self, topics: Sequence[str], *, start: int | None, stop: int | None) -> Iterator[Message]:
        """Messages of these topics that were logged from `start` to before `stop` (ns), in the order of logging."""
        parts = [part.messages(topics, start=start, stop=stop) for part in self.parts]
        yield from heapq.merge(*parts, key=lambda message: message.logged)


def is_bag_folder(folder: Path) -> bool:
    """Whether a folder is a bag of ROS 2: metadata.yaml beside its files."""
    return (folder / "metadata.yaml").is_file() and bool(_files(folder))


def folder_log(folder: Path) -> tuple[FolderLog, LeftOut]:
    """The files of a bag's folder as one log, and those that metadata.yaml lists but are not there.

    Raises:
        DataFormatError: a file is damaged. EnvError: rosbags or mcap is not installed.
    """
    files = _files(folder)
    words = (folder / "metadata.yaml").read_text(encoding="utf-8", errors="replace")
    listed = re.search(r"relative_file_paths:\s*\n((?:\s*-.*\n?)*)", words)
    names = [os.path.basename(line.strip(" -'\"")) for line in (listed[1] if listed else "").splitlines()]
    there = {file.name for file in files} | {file.name.removesuffix(".zstd") for file in files}
    missing = tuple(name for name in names if name and name not in there)
    lost = LeftOut("missing_files", "files", missing, "listed in metadata.yaml, but not there", "copy the folder whole")
    return FolderLog(folder, tuple(_part(file) for file in files)), lost


def _files(folder: Path) -> list[Path]:
    found = [file for file in folder.iterdir() if file.name.endswith(PARTS) and file.is_file()]
    return sorted(found, key=lambda file: natural_order(file.name))


def _part(file: Path) -> Log:
    if file.name.endswith(".zstd"):
        file = file_unpacked(file, changed=require_regular(file).st_mtime_ns)
    return McapLog(file) if file.suffix == ".mcap" else Db3Log(file)


def _kind(msgtype: str) -> str:
    return TF if msgtype == _OLD_TF else msgtype


@contextlib.contextmanager
def _bag(path: Path) -> Iterator[Any]:
    rosbag1 = optional("rosbags.rosbag1.reader", extra="rosbag", what=_WHAT)
    bounded = {rosbag1.decompressors["bz2"]: from_bz2, rosbag1.decompressors["lz4"]: from_lz4}
    with named_damage(path, fix="copy it again, or: rosbag reindex IN.bag"), rosbag1.Reader(_Claims(path)) as bag:
        for place, chunk in bag.chunks.items():
            bag.chunks[place] = chunk._replace(decompressor=bounded.get(chunk.decompressor, bytes))
        yield bag


class _Claims:
    """A path for rosbags whose file never reads further than it is long, whatever sizes are claimed in it."""

    def __init__(self, path: Path):
        self._path = path

    def __str__(self) -> str:
        return str(self._path)

    def exists(self) -> bool:
        """Whether there is a file."""
        return self._path.exists()

    def open(self, mode: str) -> io.BufferedReader:
        """The file, opened for reading."""
        file: Any = open_regular(self._path)
        return _Bounded(file.detach())


class _Bounded(io.BufferedReader):
    """Reads only as many bytes as there are, so that none more are set aside for them."""

    def read(self, size: int | None = -1, /) -> bytes:
        """At most `size` bytes."""
        if size is not None and size > 1 << 16:
            size = max(0, min(size, os.fstat(self.fileno()).st_size - self.tell()))
        return super().read(size)


@contextlib.contextmanager
def _database(path: Path) -> Iterator[sqlite3.Connection]:
    """An SQLite file with the tables of a bag, only read: no view, trigger or table of another kind is in play."""
    require_regular(path)
    journal = path.with_name(path.name + "-wal")
    if journal.exists() and journal.stat().st_size:
        fix = f"finish it: sqlite3 {path.name} 'PRAGMA wal_checkpoint(TRUNCATE)'"
        raise DataFormatError("was not closed: its last messages are in its -wal file", file=path, fix=fix)
    name = f"file:{urllib.parse.quote(os.path.abspath(path))}?mode=ro&immutable=1"
    open_it = functools.partial(sqlite3.connect, uri=True, check_same_thread=False)
    fix = "copy it again, or: sqlite3 IN.db3 .recover | sqlite3 OUT.db3"
    with named_damage(path, fix=fix), contextlib.closing(open_it(name)) as base:
        base.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, MAX_UNPACKED)
        base.execute("PRAGMA trusted_schema = OFF")
        rows = base.execute("SELECT name, type, sql FROM sqlite_master").fetchall()
        tables = {name for name, kind, sql in rows if kind == "table" and "VIRTUAL" not in str(sql).upper()}
        if not {"topics", "messages"} <= tables:
            where = {"file": path, "field": "tables", "found": sorted(str(name) for name, _, _ in rows)[:8]}
            raise DataFormatError("is no bag of ROS 2", **where, expected="topics, messages")
        (pages,), (size,) = (base.execute(f"PRAGMA {name}").fetchone() for name in ("page_count", "page_size"))
        if pages * size > path.stat().st_size:
            raise ValueError(f"{path.stat().st_size} of {pages * size} bytes are there")
        yield base


def _digests(base: sqlite3.Connection) -> dict[str, str]:
    """Digests of types, where the file has them."""
    columns = {row[1] for row in base.execute("PRAGMA table_info(message_definitions)")}
    if not {"topic_type", "type_description_hash"} <= columns:
        return {}
    return dict(base.execute("SELECT topic_type, type_description_hash FROM message_definitions"))


@functools.cache
def _types(store: str) -> Any:
    stores = optional("rosbags.typesys", extra="rosbag", what=_WHAT)
    types = stores.get_typestore(getattr(stores.Stores, store))
    if TF not in types.types:
        types.register(stores.get_types_from_msg("geometry_msgs/TransformStamped[] transforms", TF))
    return types


@functools.cache
def _digest(store: str, kind: str) -> str:
    types = _types(store)
    return types.generate_msgdef(kind)[1] if store == "ROS1_NOETIC" else types.hash_rihs01(kind)


def _decode_ros2(data: bytes, *, kind: str) -> Any:
    return _types("LATEST").deserialize_cdr(data, kind)


def _decode_ros1(data: bytes, *, kind: str) -> Any:
    found = _types("ROS1_NOETIC").deserialize_ros1(data, kind)
    if kind != INFO:
        return found
    values = {name.lower() if len(name) == 1 else name: getattr(found, name) for name in found.__dataclass_fields__}
    return SimpleNamespace(**values)
