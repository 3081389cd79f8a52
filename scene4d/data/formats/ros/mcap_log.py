"""MCAP files (ROS 2, Foxglove) as logs of messages."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scene4d.data.formats.ros.ros_log import Message, Topic
from scene4d.data.formats.ros.ros_unpack import message_unpacked
from scene4d.errors import DataFormatError, Scene4DError
from scene4d.extras import optional


@dataclass(frozen=True)
class McapLog:
    """One file."""

    path: Path
    source = "MCAP"

    def topics(self) -> dict[str, Topic]:
        """All topics; those that no ROS 2 decoder knows say so."""
        with _reader(self.path) as reader:
            summary = reader.get_summary()
            if summary is None or summary.statistics is None:
                raise ValueError("it has no summary")
            counts = summary.statistics.channel_message_counts
            found: dict[str, Topic] = {}
            for channel in summary.channels.values():
                schema = summary.schemas.get(channel.schema_id)
                kind = "no schema" if schema is None else schema.name
                refused = "" if channel.message_encoding == "cdr" else f"its messages are {channel.message_encoding}"
                if not refused and (schema is None or schema.encoding != "ros2msg"):
                    refused = f"its type is described in {schema.encoding}" if schema else "it has no type"
                before = found.get(channel.topic, Topic(kind, 0, refused))
                if before.kind != kind:
                    refused = f"its messages are of two types: {before.kind}, {kind}"
                count = before.count + counts.get(channel.id, 0)
                found[channel.topic] = Topic(before.kind, count, before.refused or refused)
            return found

    def messages(self, topics: Sequence[str], *, start: int | None, stop: int | None) -> Iterator[Message]:
        """Messages of these topics that were logged from `start` to before `stop` (ns), in the order of logging."""
        decoders = optional("mcap_ros2.decoder", extra="mcap", what="reading ROS 2 messages from MCAP").DecoderFactory()
        with _reader(self.path) as reader:
            found = reader.iter_messages(topics=list(topics), starting_at=start, ending_before=stop)
            for schema, channel, message in found:
                kind = "no schema" if schema is None else schema.name
                decode = _Decode(decoders, encoding=channel.message_encoding, schema=schema)
                yield Message(channel.topic, message.log_time, message_unpacked(message.data), kind, decode)


@dataclass(frozen=True)
class _Decode:
    """Decodes by the schema in the file."""

    decoders: Any
    encoding: str
    schema: Any

    def __call__(self, data: bytes) -> Any:
        decode = self.decoders.decoder_for(self.encoding, self.schema)
        if decode is None:
            raise ValueError(f"no ROS 2 type describes it (its messages are {self.encoding})")
        return decode(data)


@contextlib.contextmanager
def _reader(path: Path) -> Iterator[Any]:
    reader = optional("mcap.reader", extra="mcap", what="reading MCAP")
    with path.open("rb") as stream:
        try:
            yield reader.make_reader(stream)
        except (Scene4DError, MemoryError):
            raise
        except Exception as error:  # the library raises what the bytes make it raise
            at = _last_readable(path)
            fix = "keep what is whole: scene4d repair IN.mcap -o OUT.mcap (or mcap recover IN.mcap -o OUT.mcap)"
            found = str(error)[:100]
            raise DataFormatError("is damaged or cut short", file=path, field=at, found=found, fix=fix) from error


def _last_readable(path: Path) -> str:
    """Topic and time of the last message before the damage."""
    streams = optional("mcap.stream_reader", extra="mcap", what="reading MCAP")
    channels: dict[int, str] = {}
    last = "no message"
    with path.open("rb") as stream, contextlib.suppress(Exception):
        for record in streams.StreamReader(stream).records:
            kind = type(record).__name__
            if kind == "Channel":
                channels[record.id] = record.topic
            elif kind == "Message":
                last = f"{channels.get(record.channel_id)} at {record.log_time / 1e9:.3f} s"
    return f"after {last}"
