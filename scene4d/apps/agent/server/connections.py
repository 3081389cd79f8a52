"""Who is connected to the policy server: places for callers that may come in, and a waiting room for all others."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections import OrderedDict


class Connections:
    """A bounded number of connections, of which those that nobody waits for are closed first, the oldest before others.

    A connection waits until its first request has shown that it may come in; only then it takes a place, which it keeps
    while it rests between requests. So silent callers, however many, keep nobody out.
    """

    def __init__(self, *, places: int, waiting: int) -> None:
        """
        Args:
            places: connections that have shown that they may come in. waiting: that have not.
        """
        self._places, self._most_waiting = places, waiting
        self._lock = threading.Lock()
        self._waiting: OrderedDict[socket.socket, None] = OrderedDict()
        self._resting: OrderedDict[socket.socket, None] = OrderedDict()
        self._working: set[socket.socket] = set()
        self.num_closed = 0

    def __len__(self) -> int:
        return len(self._waiting) + len(self._resting) + len(self._working)

    def come(self, connection: socket.socket) -> None:
        """A new one; where too many wait, the one that waited longest is closed."""
        with self._lock:
            while len(self._waiting) >= self._most_waiting:
                self._close_oldest(self._waiting)
            self._waiting[connection] = None

    def begin(self, connection: socket.socket) -> bool:
        """A request that may come in takes a place; where all are taken, that of the one that rested longest.

        Returns:
            Whether there was one: not where others work at all places.
        """
        with self._lock:
            known = connection in self._resting
            if not known and len(self._resting) + len(self._working) >= self._places:
                if not self._resting:
                    return False
                self._close_oldest(self._resting)
            self._waiting.pop(connection, None)
            self._resting.pop(connection, None)
            self._working.add(connection)
            return True

    def rest(self, connection: socket.socket) -> None:
        """Its request is answered."""
        with self._lock:
            if connection in self._working:
                self._working.discard(connection)
                self._resting[connection] = None

    def gone(self, connection: socket.socket) -> None:
        """It has ended."""
        with self._lock:
            self._waiting.pop(connection, None)
            self._resting.pop(connection, None)
            self._working.discard(connection)

    def _close_oldest(self, room: OrderedDict[socket.socket, None]) -> None:
        """Its thread reads the end of the stream, and ends."""
        oldest, _ = room.popitem(last=False)
        self.num_closed += 1
        with contextlib.suppress(OSError):
            oldest.shutdown(socket.SHUT_RDWR)
