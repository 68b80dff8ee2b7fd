"""A recorder on a CPU: the same path as CUDA graphs take, without any."""

from __future__ import annotations


class Tape:
    """A recorder on a CPU: what it records is done when it is replayed, and only then."""

    def __init__(self):
        self.events = []

    def warm(self, work):
        self.events.append("warm")
        work()

    def record(self, work):
        self.events.append("record")

        def replay():
            self.events.append("replay")
            work()

        return replay
