"""Reading tapes: what a real client and a real server said to each other, byte for byte.

A tape is JSON: `client`, `server` and `made` say between whom and how; `chunks` is a list of [side, text] in order of
arrival at a relay between them: side "c" or "t" is who sent it, text has one character a byte (Latin-1), and an empty
text says that this side hung up. The first chunk of "c" is the start-up packet.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent


@dataclass(frozen=True, slots=True)
class Tape:
    """One taped connection. chunks: (side, bytes)."""

    name: str
    client: str
    server: str
    chunks: tuple[tuple[str, bytes], ...]

    def said(self, side: str) -> bytes:
        """Everything that one side sent."""
        return b"".join(data for who, data in self.chunks if who == side)


def load(path: Path) -> Tape:
    """Read one tape."""
    kept = json.loads(path.read_text("ascii"))
    chunks = tuple((side, text.encode("latin-1")) for side, text in kept["chunks"])
    return Tape(path.stem, kept["client"], kept["server"], chunks)


def tapes(protocol: str) -> list[Tape]:
    """Every tape of a protocol, by name."""
    return [load(path) for path in sorted((HERE / protocol).glob("*.json"))]
