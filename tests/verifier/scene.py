"""A small but whole evidence directory, written with the real journal and the real log.

Two sessions of a made-up job: one reads, is refused a DROP TABLE, waits for two people's approval of a DROP DATABASE
and uses it; the other reads through basics only. Recordings are stand-ins: the verifier knows only their digests.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from muniment.model.entries import (
    ApprovalDecide,
    ApprovalRequest,
    DocumentVersion,
    Entry,
    Heartbeat,
    InstanceStart,
    InstanceStop,
    KeySet,
    Request,
    Response,
    RulesActive,
    RulesApply,
    SessionClose,
    SessionOpen,
)
from muniment.proof import canonical, tree
from muniment.store.journal import Journal
from muniment.store.keys import Keys
from muniment.store.lines import Encoder
from muniment.store.log import Log

START_US = 1_790_000_000_000_000
BASICS = {
    "postgres/client": {
        "functions": ["pg_catalog.version"],
        "relations": ["pg_catalog.*"],
        "except": ["pg_catalog.pg_stat*"],
        "settings": {"set": ["application_name"], "show": ["*"], "reset": []},
        "transactions": ["begin", "commit", "rollback"],
    }
}
DECLARED = (
    "nightly|nightly-report|billing|select|public.invoices,public.customers|",
    "nightly|nightly-report|billing|drop|*|database",
    "nightly|nightly-report|billing|basics|client|",
    "reporting|@reporting|billing|call|public.fx_?ate|function",
)


def string(value: bytes) -> bytes:
    return len(value).to_bytes(4, "big") + value


class Approver:
    """A person with an Ed25519 key, who signs as `ssh-keygen -Y sign` does (OpenSSH PROTOCOL.sshsig)."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._key = Ed25519PrivateKey.from_private_bytes(hashlib.sha256(name.encode()).digest())
        public = self._key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
        self.blob = string(b"ssh-ed25519") + string(public)
        self.line = "ssh-ed25519 " + base64.b64encode(self.blob).decode()

    def sign(self, message: bytes, namespace: bytes = b"muniment-approval@v1") -> str:
        digest = hashlib.sha512(message).digest()
        signed = b"SSHSIG" + string(namespace) + string(b"") + string(b"sha512") + string(digest)
        signature = string(b"ssh-ed25519") + string(self._key.sign(signed))
        blob = b"SSHSIG\0\0\0\1" + string(self.blob) + string(namespace) + string(b"") + string(b"sha512")
        text = base64.b64encode(blob + string(signature)).decode()
        lines = [text[at : at + 70] for at in range(0, len(text), 70)]
        return "\n".join(["-----BEGIN SSH SIGNATURE-----", *lines, "-----END SSH SIGNATURE-----"])


class Quick:
    """The same lines as the journal writes, without its threads, syncs and payloads: 0.2 s less a scene."""

    def __init__(self, evidence: Path, instance: str, log: Log, now_us: Callable[[], int]) -> None:
        self._path = evidence / "journal" / f"{instance}.jsonl"
        self._path.parent.mkdir(parents=True)
        self._encoder, self._log, self._now_us = Encoder(instance), log, now_us
        self._iseq, self._before = 0, ""

    def append(self, entries: Sequence[Entry]) -> list[str]:
        (entry,) = entries
        self._iseq += 1
        line, _ = self._encoder.encode(entry, self._iseq, self._before, self._now_us())
        self._before = tree.leaf_hash(line).hex()
        with self._path.open("ab") as file:
            file.write(line + b"\n")
        self._log.fold([line])
        return [self._before]

    def flush(self) -> None:
        """It is always."""

    def close(self) -> None:
        """Nothing is open."""


GRACE, ADA = Approver("grace"), Approver("ada")


class Scene:
    """Writes entries; `finish` folds, signs and lets go."""

    def __init__(self, path: Path, instance: str = "i-0000000a", *, quick: bool = False) -> None:
        self.evidence = path / "evidence"
        self.now_us = START_US
        self.keys = Keys.open(path / "keys")
        self.log = Log.open(self.evidence, "gw.example.org", 2026, self.keys)
        self.journal: Journal | Quick
        if quick:
            self.journal = Quick(self.evidence, instance, self.log, self.tick)
        else:
            self.journal, _ = Journal.open(self.evidence, instance, self.keys, now_us=self.tick, reserve_bytes=0)
            self.journal.add_sink(lambda lines: void(self.log.fold([one.line for one in lines])))

    def tick(self) -> int:
        self.now_us += 1000
        return self.now_us

    def add(self, *entries: Entry) -> str:
        """Append one by one. Returns the last one's leaf hash."""
        for entry in entries:
            (digest,) = self.journal.append([entry])
        return digest

    def recording(self, name: str, data: bytes) -> str:
        path = self.evidence / "recordings" / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(data)
        return hashlib.sha256(data).hexdigest()

    def sign(self) -> str:
        """Fold everything and sign a checkpoint."""
        self.journal.flush()
        return self.log.checkpoint(self.now_us)

    def finish(self) -> None:
        self.sign()
        self.journal.close()
        self.log.close()

    # -- what a gateway writes

    def rules(self, version: int = 1, declared: Sequence[str] = DECLARED, basics: bool = True) -> None:
        """An apply of the documents in force, and its swap; the declared lines in two leaves."""
        names = ["Identity/nightly-report", "Person/ada", "Person/grace"]
        self.docs = {
            name: self.add(DocumentVersion(document=name, version=version, digest="d" * 64, text="sealed"))
            for name in names
        }
        entries = tuple(f"{name}={digest}" for name, digest in self.docs.items())
        apply = self.add(RulesApply(version=version, digest="e" * 64, documents=entries, asserted_by="ada"))
        digest = self.log.publish_basics(BASICS) if basics else ""
        for lines, more in ((tuple(declared[:2]), True), (tuple(declared[2:]), False)):
            self.add(
                RulesActive(version=version, digest="e" * 64, apply=apply, declared=lines, basics=digest, more=more)
            )

    def open(self, ses: str, **other: object) -> None:
        fields: dict[str, object] = {
            "ses": ses, "identity": "nightly-report", "identity_ref": self.docs["Identity/nightly-report"],
            "groups": ("reporting",), "target": "billing", "protocol": "postgres", "role": "report_ro",
            "database": "billing", "grants": ("nightly",), "rules": 1, "method": "oidc", "sub": "repo:acme/ci",
            "expires_us": self.now_us + 3_600_000_000,
        }  # fmt: skip
        self.add(SessionOpen(**(fields | other)))  # type: ignore[arg-type]

    def ask(self, ses: str, n: int, decision: str, *touches: str, **other: object) -> str:
        fields: dict[str, object] = {
            "rule": "nightly",
            "rules": 1,
            "phase": "execute",
            "statement": "select 1",
            "reader": "r1",
        }
        return self.add(Request(ses=ses, n=n, decision=decision, touches=touches, **(fields | other)))  # type: ignore[arg-type]

    def answer(self, *results: str) -> None:
        self.add(Response(results=results))

    def close(self, ses: str, exchanges: int, **other: str) -> None:
        recording = self.recording(f"{ses}.rec", b"frames of " + ses.encode())
        fields = {"recording": recording, "reason": "client"} | other
        self.add(SessionClose(ses=ses, exchanges=exchanges, frames=1, shown="f" * 64, **fields))  # type: ignore[arg-type]

    def question(self, approval: str, ses: str, n: int, count: int = 2, **other: object) -> str:
        fields: dict[str, object] = {"identity": "nightly-report", "target": "billing", "bound": "b" * 64}
        fields |= {"expires_us": self.now_us + 1_800_000_000, "rule": "production-safety", "approvers": "dba"}
        entry = ApprovalRequest(approval=approval, ses=ses, n=n, count=count, **(fields | other))  # type: ignore[arg-type]
        return self.add(entry)

    def decide(self, approval: str, question: str, person: Approver, decision: str = "approve", **other: str) -> str:
        document = self.document(approval, person, decision)
        fields = {
            "person": person.name, "person_ref": self.docs[f"Person/{person.name}"], "key": person.line,
            "document": document, "signature": person.sign(document.encode()),
        }  # fmt: skip
        return self.add(ApprovalDecide(approval=approval, request=question, decision=decision, **(fields | other)))

    def document(self, approval: str, person: Approver, decision: str = "approve", **other: str) -> str:
        fields: dict[str, object] = {
            "approval": approval, "bound": "b" * 64, "decision": decision, "deployment": "gw.example.org",
            "identity": "nightly-report", "person": person.name, "reason_sha256": "0" * 64, "t": self.now_us,
            "target": "billing",
        }  # fmt: skip
        return canonical.encode(fields | other).decode()

    def held(self, ses: str, n: int, approval: str = "7K2M", *, approvers: Sequence[Approver] = (GRACE, ADA)) -> None:
        """A question, its approvals, its use, and the exchange (the next one) that it released."""
        question = self.question(approval, ses, n)
        self.ask(ses, n, "hold", "drop database reports")
        for person in approvers:
            self.decide(approval, question, person)
        use = self.add(ApprovalDecide(approval=approval, request=question, decision="use", ses=ses, n=n + 1))
        self.ask(ses, n + 1, "allow", "drop database reports", approval=use)

    def play(self) -> None:
        """The whole scene of the module's docstring, without its end."""
        self.add(InstanceStart(software="0.1", boot="b1"))
        self.rules()
        self.add(KeySet(issuer="https://issuer.example.org", kids=("k1",), digest="a" * 64, keys="sealed"))
        self.open("s-1", sub="x")
        self.ask("s-1", 1, "allow", "select relation public.invoices", "call function public.fx_rate")
        self.ask("s-1", 2, "deny", "drop table public.invoices")
        self.answer("s-1:1:ok:10:1000::SELECT:", "s-1:2:refused:0:0:42501::")
        self.sign()
        self.held("s-1", 3)
        self.open("s-2", identity="nightly-report", sub="y")
        self.ask("s-2", 1, "allow", "select relation pg_catalog.pg_class", "begin transaction ", "show setting x")
        self.answer("s-1:4:ok:0:0::DROP DATABASE:", "s-2:1:ok:1:1::SELECT:card_number=1")
        self.close("s-1", 4, originals=self.recording("s-1.orig", b"sealed"))
        self.close("s-2", 1)
        self.add(Heartbeat(accepted=3, rejected=1, opened=2, closed=2, open=0))


def void(_: object) -> None:
    """Sinks return nothing."""


def whole(path: Path) -> Scene:
    """The finished scene."""
    scene = Scene(path)
    scene.play()
    scene.add(InstanceStop(reason="told to"))
    scene.finish()
    return scene
