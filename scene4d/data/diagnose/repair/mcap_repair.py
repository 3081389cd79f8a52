"""An MCAP file that was cut short or damaged, as far as it is whole, in a new file with its index.

A recorder that dies leaves no footer and no index; all chunks before the cut can still be read one after another.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from scene4d.disk_errors import refuse_shortage
from scene4d.errors import DataFormatError
from scene4d.extras import optional
from scene4d.files import atomic_file

MAX_RECORD = 1 << 28


def repair_mcap(
    source: str | os.PathLike, output: str | os.PathLike, *, progress: Callable[[int, int], None] | None = None
) -> dict[str, Any]:
    """Copy every message before the damage (the chunk in which it lies is lost), with all that goes with messages.

    That is the header (profile, library), schemas, channels, metadata and attachments.

    Args:
        progress: called with the percent read, and 100.
    Returns:
        {"messages", "topics": {topic: messages}, "unknown_channel", "lost_bytes", "reason"}; unknown_channel counts the
        messages left out because their channel or its schema never came; reason says what stopped the reading and after
        which topic and time, None where nothing did.
    Raises:
        DataFormatError: no message is whole. ResourceError: the output cannot be written. EnvError: mcap is missing.
    """
    source = Path(source)
    writers = optional("mcap.writer", extra="mcap", what="writing MCAP")
    walk = _Walk(source)
    topics: dict[str, int] = {}
    unknown, shown = 0, -1
    with atomic_file(output) as temporary, open(temporary, "wb") as file:
        writer = writers.Writer(file)
        schemas, channels = {0: 0}, {}
        for record in _begun(writer, walk.records()):
            match type(record).__name__:
                case "Schema" if record.id not in schemas:
                    schemas[record.id] = writer.register_schema(record.name, record.encoding, record.data)
                case "Channel" if record.id not in channels and record.schema_id in schemas:
                    schema = schemas[record.schema_id]
                    number = writer.register_channel(record.topic, record.message_encoding, schema, record.metadata)
                    channels[record.id] = (number, record.topic)
                case "Message" if record.channel_id in channels:
                    number, topic = channels[record.channel_id]
                    writer.add_message(number, record.log_time, record.data, record.publish_time, record.sequence)
                    topics[topic] = topics.get(topic, 0) + 1
                    walk.last = f"{topic} at {record.log_time / 1e9:.3f} s"
                case "Message":
                    unknown += 1
                case "Metadata":
                    writer.add_metadata(record.name, record.metadata)
                case "Attachment":
                    writer.add_attachment(
                        record.create_time, record.log_time, record.name, record.media_type, record.data
                    )
            if progress is not None and walk.percent != shown:
                shown = walk.percent
                progress(shown, 100)
        writer.finish()
        if not topics:
            fix = "the recorder wrote nothing, or this is another kind of file"
            raise DataFormatError("no message is whole", file=source, field="records", found=walk.reason, fix=fix)
    return {
        "messages": sum(topics.values()),
        "topics": dict(sorted(topics.items())),
        "unknown_channel": unknown,
        "lost_bytes": 0 if walk.reason is None else walk.size - walk.done,
        "reason": walk.reason,
    }


def _begun(writer: Any, records: Iterator[Any]) -> Iterator[Any]:
    """The records after the header, with which the writer starts."""
    first = next(records, None)
    if first is not None and type(first).__name__ == "Header":
        writer.start(profile=first.profile, library=first.library)
    else:
        writer.start()
        yield from [] if first is None else [first]
    yield from records


class _Walk:
    """The records of a file one after another, up to the first that is not whole."""

    def __init__(self, path: Path):
        self.path, self.done, self.last = path, 0, "no message"
        self.reason: str | None = None
        try:
            self.size = path.stat().st_size
        except OSError as error:
            raise DataFormatError("cannot be read", file=path, found=error.strerror, fix="check the path") from error

    @property
    def percent(self) -> int:
        """Share of the file that was read."""
        return 100 * self.done // max(1, self.size)

    def records(self) -> Iterator[Any]:
        """Whole records; `reason` tells afterwards why there were no more."""
        streams = optional("mcap.stream_reader", extra="mcap", what="reading MCAP")
        with self.path.open("rb") as stream:
            found = streams.StreamReader(stream, validate_crcs=True, record_size_limit=MAX_RECORD).records
            while True:
                try:
                    record = next(found)
                except StopIteration:
                    return
                except Exception as error:  # the library and its decompressors raise what the bytes make them raise
                    refuse_shortage(error, file=self.path)
                    self.reason = f"{str(error)[:80] or type(error).__name__}, after {self.last}"
                    return
                self.done = stream.tell()
                yield record
