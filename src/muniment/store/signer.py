"""The log's signer: it remembers what it signed, beside its key, and never signs anything that does not follow.

The memory is `keys/log.last`, outside the evidence: whoever can put back an older copy of the evidence cannot make the
signer take it up.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from muniment.model.errors import Unavailable
from muniment.proof import canonical, note, tree
from muniment.store.keys import Keys, sync_directory


@dataclass(frozen=True, slots=True)
class Signed:
    """What was signed last. bytes: length of the records then; folded: last `iseq` of each instance then."""

    size: int = 0
    root: bytes = tree.EMPTY_ROOT
    bytes: int = 0
    folded: Mapping[str, int] = field(default_factory=dict)


class Signer:
    """Signs checkpoints of one origin."""

    def __init__(self, path: Path, origin: str, sign: Callable[[bytes], bytes], public: bytes, last: Signed) -> None:
        self.origin = origin
        self.vkey = note.VerifierKey(origin, public)
        self.last = last
        self._path = path
        self._sign = sign

    @classmethod
    def open(cls, keys: Keys, origin: str, *, fresh: bool) -> Signer:
        """Take up the memory; fresh: the log is empty, so there may be none yet. Raises Unavailable."""
        path = keys.directory / "log.last"
        sign, public = keys.log_signer()
        mend = "restore it together with the keys; without it an older log could be signed again"
        if path.exists():
            try:
                known = json.loads(path.read_bytes())
                last = Signed(known["size"], bytes.fromhex(known["root"]), known["bytes"], known["folded"])
                if known["origin"] == origin and isinstance(last.size, int) and isinstance(last.bytes, int):
                    return cls(path, origin, sign, public, last)
                what = f"{path} is of the log {known['origin']}"
            except (ValueError, KeyError, TypeError):
                what = f"{path} is not readable"
            raise Unavailable(what, mend)
        if not fresh:
            raise Unavailable(f"{path} is missing", mend)
        signer = cls(path, origin, sign, public, Signed())
        signer._remember(signer.last)
        return signer

    def sign(self, head: note.Checkpoint, proof: Sequence[bytes], length: int, folded: Mapping[str, int]) -> str:
        """Sign a tree head that follows from the last one. Returns the note.

        proof: consistency from the last size; length, folded: kept for the next start. Raises Unavailable when the head
        is of another log, smaller, or not a continuation. The memory is on the disk before the signature exists.
        """
        try:
            if head.origin != self.origin:
                raise tree.ProofError(f"the log is {self.origin}, not {head.origin}")
            tree.verify_consistency(self.last.size, head.size, self.last.root, head.root, proof)
        except tree.ProofError as error:
            mend = "stop the gateway, remove log/tile and start it; if it refuses still, restore the evidence"
            raise Unavailable(f"the signer refuses this checkpoint: {error}", mend) from None
        signed = Signed(head.size, head.root, length, dict(folded))
        self._remember(signed)
        self.last = signed
        return note.sign(head.text, self.vkey.name, self.vkey.key, self._sign)

    def _remember(self, signed: Signed) -> None:
        memory = {
            "bytes": signed.bytes,
            "folded": dict(signed.folded),
            "origin": self.origin,
            "root": signed.root.hex(),
            "size": signed.size,
        }
        replace(self._path, canonical.encode(memory) + b"\n", 0o600)


def replace(path: Path, data: bytes, mode: int) -> None:
    """Write a file whole or not at all, durably: a reader sees the old content or the new."""
    beside = path.with_name(f".{path.name}.new")
    file = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, mode)
    try:
        written = 0
        while written < len(data):
            written += os.write(file, data[written:])
        os.fsync(file)
    finally:
        os.close(file)
    beside.replace(path)
    sync_directory(path.parent)
