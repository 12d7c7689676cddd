"""The helper process that reads SQL: the parser is native code that hostile text can crash, so it runs apart.

It gets a length and a text, answers a length and a reading, and ends when its input does. It holds no secret, opens
nothing, and may not grow. Run as `python -m muniment.services.reading_worker` by `services.reading`.
"""

from __future__ import annotations

import resource
import struct
import sys
from typing import BinaryIO

from muniment.protocols.sql import postgres
from muniment.protocols.sql.reading import Reading

MAX_MEMORY_BYTES = 1 << 30  # address space; the parser needs about 100 times the text it is given
MAX_OPEN_FILES = 16
MAX_ANSWER_BYTES = 4 << 20  # a reading of 64 KB of text is at most some hundred KB


def limit() -> None:
    """Give away what a parser does not need: memory, files, and the core dump that would hold a statement."""
    resource.setrlimit(resource.RLIMIT_AS, (MAX_MEMORY_BYTES, MAX_MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_NOFILE, (MAX_OPEN_FILES, MAX_OPEN_FILES))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def answer(text: str) -> bytes:
    """The reading of a text, as it goes back."""
    try:
        found = postgres.read(text).to_json().encode()
    except MemoryError:
        found = Reading(why="reading the statement takes too much memory").to_json().encode()
    if len(found) > MAX_ANSWER_BYTES:
        found = Reading(why="the statement touches too much to be read").to_json().encode()
    return struct.pack("!I", len(found)) + found


def serve(source: BinaryIO, sink: BinaryIO) -> None:
    """Answer until the input ends."""
    while len(head := source.read(4)) == 4:
        (length,) = struct.unpack("!I", head)
        sink.write(answer(source.read(length).decode()))
        sink.flush()


if __name__ == "__main__":
    limit()
    serve(sys.stdin.buffer, sys.stdout.buffer)
