"""A decision as a document that a person signs: its text, what it is bound to, and whether it counts.

The same functions serve the person's side (the command line signs) and the gateway's (it checks).
"""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from json.encoder import encode_basestring_ascii

from muniment.model.exchange import Parameter
from muniment.model.rules import Person
from muniment.proof import canonical, sshsig
from muniment.store.approvals import AskedRow

NAMESPACE = "muniment-approval@v1"
MAX_DOCUMENT_BYTES = 4 << 10
MAX_REASON = 2000  # characters
FRESH_US = 300_000_000  # how far a document's time may be from ours: clocks differ, and a document must not be kept
_FIELDS = frozenset(
    ("approval", "bound", "decision", "deployment", "identity", "person", "reason_sha256", "t", "target")
)


@dataclass(frozen=True, slots=True)
class NotAccepted:
    """A decision that does not count: what is wrong, and what to do."""

    what: str
    mend: str


@dataclass(frozen=True, slots=True)
class Signed:
    """A decision that counts: who made it, with which of the person's keys ("type base64")."""

    approval: str
    decision: str
    person: Person
    key: str
    reason: str


def bound(
    identity: str,
    target: str,
    database: str,
    role: str,
    statement: str,
    parameters: Sequence[Parameter],
    question: str,
) -> str:
    """The digest that an approval is bound to: hex SHA-256 over all that decides what would be run, by whom, where.

    question: says what the statement touches; the same text means something else under another search path.
    """
    values = [
        [parameter.type, parameter.binary, None if parameter.value is None else parameter.value.hex()]
        for parameter in parameters
    ]
    whole = ["muniment-bound@v2", identity, target, database, role, statement, values, question]
    text = json.dumps(whole, ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()


def parameters_json(parameters: Sequence[Parameter]) -> str:
    """Parameters for people and back again: text where the value is UTF-8 text, else hex; neither for NULL.

    JSON, written by hand: of every exchange, and `json.dumps` costs six times as much.
    """
    parts = []
    for parameter in parameters:
        start = f'{{"type":{parameter.type},"binary":{"true" if parameter.binary else "false"}'
        value = parameter.value
        if value is None:
            parts.append(start + "}")
            continue
        try:
            text = None if parameter.binary else value.decode("utf-8")
        except UnicodeDecodeError:
            text = None
        shown = f'"hex":"{value.hex()}"' if text is None else f'"text":{encode_basestring_ascii(text)}'
        parts.append(f"{start},{shown}}}")
    return f"[{','.join(parts)}]"


def parameters_from(text: str) -> tuple[Parameter, ...]:
    """The inverse of `parameters_json`. Raises ValueError when the text is not of that form."""
    found: list[Parameter] = []
    for entry in json.loads(text) if text else []:
        if not isinstance(entry, dict) or not isinstance(entry.get("type"), int):
            raise ValueError("not a list of parameters")
        value = None
        if "text" in entry:
            value = str(entry["text"]).encode()
        elif "hex" in entry:
            value = bytes.fromhex(str(entry["hex"]))
        found.append(Parameter(entry["type"], entry.get("binary") is True, value))
    return tuple(found)


def document(
    *, deployment: str, approval: str, bound: str, identity: str, target: str, decision: str, person: str, reason: str,
    t_us: int,
) -> str:  # fmt: skip
    """The exact text that a person signs with `ssh-keygen -Y sign -n muniment-approval@v1`. decision: approve | deny.

    The reason stands in it as its SHA-256, since the text is readable to everyone in the log and the reason is not.
    """
    return canonical.encode(
        {
            "approval": approval,
            "bound": bound,
            "decision": decision,
            "deployment": deployment,
            "identity": identity,
            "person": person,
            "reason_sha256": hashlib.sha256(reason.encode()).hexdigest(),
            "t": t_us,
            "target": target,
        }
    ).decode()


def read_document(text: str) -> dict[str, str | int] | NotAccepted:
    """A document's fields: exactly the known ones, in the one form that `document` writes."""
    mend = "make it with `muniment approvals approve` or `deny`"
    data = text.encode("utf-8", "surrogatepass")
    if len(data) > MAX_DOCUMENT_BYTES:
        return NotAccepted("the document is too long", mend)
    try:
        fields = canonical.decode(data)
    except canonical.CanonicalError as error:
        return NotAccepted(f"the document is not canonical JSON: {error}", mend)
    if fields.keys() != _FIELDS:
        return NotAccepted("the document does not have exactly the fields of a decision", mend)
    for name, value in fields.items():
        if type(value) is not (int if name == "t" else str):
            return NotAccepted(f"the document's {name!r} is not of its type", mend)
    if fields["decision"] not in ("approve", "deny"):
        return NotAccepted("the decision is neither approve nor deny", mend)
    return fields


def check(
    text: str,
    signature: str,
    reason: str,
    *,
    deployment: str,
    asked: AskedRow,
    persons: dict[str, Person],
    decided: Iterable[Person],
    now_us: int,
) -> Signed | NotAccepted:
    """Whether this signed document is a decision that counts on this open question.

    decided: the persons who have decided it already. Says nothing about how many are needed.
    """
    fields = read_document(text)
    if isinstance(fields, NotAccepted):
        return fields
    again = "run `muniment approvals approve` or `deny` again"
    for name, wanted in (("approval", asked.id), ("bound", asked.bound), ("identity", asked.identity),
                         ("target", asked.target), ("deployment", deployment)):  # fmt: skip
        if fields[name] != wanted:
            return NotAccepted(f"the document's {name!r} is not the question's", again)
    if abs(int(fields["t"]) - now_us) > FRESH_US:
        return NotAccepted("the document's time is more than 5 minutes from the gateway's", "set the clock; " + again)
    if not reason.strip() or len(reason) > MAX_REASON:
        return NotAccepted(f"a decision needs a reason of 1 to {MAX_REASON} characters", "give it with --reason")
    digest = hashlib.sha256(reason.encode("utf-8", "surrogatepass")).hexdigest()
    if not hmac.compare_digest(digest, str(fields["reason_sha256"])):
        return NotAccepted("the reason is not the one that was signed", again)
    person = persons.get(str(fields["person"]))
    if person is None or asked.approvers not in person.groups:
        return NotAccepted(
            f"{fields['person']!r} is not a Person of the group {asked.approvers!r}",
            "ask somebody who is, or have the group added to the Person's manifest",
        )
    try:
        line = sshsig.verify(signature, text.encode(), NAMESPACE, person.keys)
    except sshsig.SignatureError as error:
        return NotAccepted(f"the signature does not hold: {error}", "sign with a key of the Person's manifest (--key)")
    signed = Signed(asked.id, str(fields["decision"]), person, " ".join(line.split()[:2]), reason)
    return _may(signed, asked, decided)


def _may(signed: Signed, asked: AskedRow, decided: Iterable[Person]) -> Signed | NotAccepted:
    """The rules on who may decide: not the requester, once per human being, and not the owner alone."""
    person = signed.person
    if any(same_human(person, other) for other in decided):
        return NotAccepted(f"{person.name!r} has decided this already", "somebody else must decide")
    if signed.decision == "approve":
        if names(person, asked.identity) or names(person, asked.initiator):
            return NotAccepted(f"{person.name!r} is the requester", "somebody else must approve")
        if asked.count == 1 and names(person, asked.owner):
            return NotAccepted(f"{person.name!r} owns {asked.identity!r} and would be the only approver",
                               "another person of the group must approve")  # fmt: skip
    return signed


def names(person: Person, who: str) -> bool:
    """Whether this text (an owner, an initiator's id, an identity's name) means this person."""
    return bool(who) and who.casefold() in (person.name.casefold(), person.email.casefold())


def same_human(one: Person, other: Person) -> bool:
    """Whether two Person documents must count as one human being: same name, same address or a key in common."""
    if one.name == other.name or (one.email and one.email.casefold() == other.email.casefold()):
        return True
    return not _blobs(one).isdisjoint(_blobs(other))


def _blobs(person: Person) -> set[str]:
    return {line.split()[1] for line in person.keys if len(line.split()) > 1}


def enough(approved: Sequence[Person], asked: AskedRow) -> bool:
    """Whether these people's consent releases it: as many as the rule wants, and not the owner alone."""
    return len(approved) >= asked.count and any(not names(person, asked.owner) for person in approved)
