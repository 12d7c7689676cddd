#!/usr/bin/env python3
"""Check a copied Muniment evidence directory offline: standard library only, no trust in what is checked.

    python3 verify.py DIR --key KEY [--checkpoint HELD] [--until TIME] [--json]

KEY   the log's public key (name+id+key) or a file that holds it; get it by another way than the directory.
HELD  the file of a checkpoint that you kept from an earlier visit: what it covers cannot have been changed since.
TIME  ISO 8601, your period's end: the evidence must reach that far, or an older copy could pass for the whole.
Exit status: 0 all held, 1 something failed, 2 wrong usage. Formats: RFC 6962, RFC 8032, C2SP signed-note and
tlog-checkpoint, OpenSSH PROTOCOL.sshsig. One line of log/records.jsonl is one leaf.
"""

import argparse
import base64
import collections
import datetime
import functools
import hashlib
import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace

UTC = datetime.timezone.utc  # noqa: UP017 - runs on Python 3.9 too
LATEST_US = 1 << 53  # of a leaf: no integer is larger, and it is a time that can be printed
LAG_US = 300_000_000  # a journal this far ahead of the log means that the log was cut or stands still
GRACE_US = 60_000_000  # from a session's expiry to its last request
SWAP_US = 5_000_000  # after new rules came in, a request may still have been judged by the ones before
NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")  # what may be part of a file's name
BROKEN = ValueError, KeyError, TypeError, AttributeError, IndexError, OSError, RecursionError  # what bad input raises
EMPTY = dict.fromkeys("groups touches declared results documents".split(), ())  # what a leaf leaves out when empty
EMPTY |= dict.fromkeys("apply basics identity_ref phase approval recording originals more".split(), "")
CANNOT = (
    "paths around the gateway, and a gateway host that lied while it ran",
    "statements, parameters, rows, reasons: the log has commitments; their seals, and log/tile, are not opened here",
    "that touches (what the named reader read) are all a statement does, or that no guard should have stopped it",
    "that an approver's key is that person's, and that the approved text is the one that ran (its digest is sealed)",
    "for which database, as which role and until when something was granted: declared lines do not say it",
    "a copy that is older as a whole, unless you gave --checkpoint or --until",
)

# ---- Ed25519 (RFC 8032, section 5.1), with plain affine points: slow, about 20 ms a signature, and short
P, L = 2**255 - 19, 2**252 + 27742317777372353535851937790883648493
D = -121665 * pow(121666, -1, P) % P


def add(a, b):
    (x, y), (u, v) = a, b
    cross = D * x * u * y * v % P
    inverse = pow(1 - cross * cross, -1, P)
    return (x * v + u * y) * (1 - cross) * inverse % P, (y * v + x * u) * (1 + cross) * inverse % P


def times(n, point):
    total = (0, 1)
    while n:
        total, point, n = add(total, point) if n & 1 else total, add(point, point), n >> 1
    return total


def decode(data):
    """The point that these 32 bytes stand for (section 5.1.3). Raises ValueError if there is none."""
    y, odd = int.from_bytes(data, "little") & (1 << 255) - 1, data[31] >> 7
    square = (y * y - 1) * pow(D * y * y + 1, -1, P) % P
    x = pow(square, (P + 3) // 8, P)
    x = x if x * x % P == square else x * pow(2, (P - 1) // 4, P) % P
    if y >= P or x * x % P != square or (odd and not x):
        raise ValueError("not a point of Ed25519")
    return (x if x & 1 == odd else P - x), y


def ed25519(key, message, signature):
    """Whether this is the key's signature of the message (section 5.1.7)."""
    s = int.from_bytes(signature[32:], "little")
    if len(key) != 32 or len(signature) != 64 or s >= L:
        return False
    k = int.from_bytes(hashlib.sha512(signature[:32] + key + message).digest(), "little") % L
    x, y = add(times(s, decode((4 * pow(5, -1, P) % P).to_bytes(32, "little"))), times(L - k, decode(key)))
    return (y | (x & 1) << 255).to_bytes(32, "little") == signature[:32]


# ---- what people sign with their SSH keys (OpenSSH PROTOCOL.sshsig, PROTOCOL.u2f)
def strings(data, count):
    """So many SSH strings, and what follows them."""
    found = []
    for _ in range(count):
        end = 4 + int.from_bytes(data[:4], "big")
        if len(data) < max(end, 4):
            raise ValueError("a signature or key is cut short")
        found.append(data[4:end])
        data = data[end:]
    return [*found, data]


def ssh_signed(line, message, armour, namespace):
    """Whether the key of this line ("type base64") signed the message. Ed25519 here, other keys by `ssh_keygen`."""
    kind, key = line.split()
    if "ed25519" not in kind:
        return ssh_keygen(kind, key, message, armour, namespace)
    first, *body, last = armour.strip().splitlines()
    blob, key = base64.b64decode("".join(body), validate=True), base64.b64decode(key, validate=True)
    signer, space, _, digest, inner, rest = strings(blob[10:], 5)
    (name, public, more), (algorithm, value, touch) = strings(key, 2), strings(inner, 2)
    if (first, last) != ("-----BEGIN SSH SIGNATURE-----", "-----END SSH SIGNATURE-----") or rest or signer != key:
        return False
    if blob[:10] != b"SSHSIG\0\0\0\1" or space != namespace.encode() or digest not in (b"sha256", b"sha512"):
        return False
    parts = (space, b"", digest, hashlib.new(digest.decode(), message).digest())
    signed = b"SSHSIG" + b"".join(len(part).to_bytes(4, "big") + part for part in parts)
    if kind == "sk-ssh-ed25519@openssh.com" and len(touch) == 5 and touch[0] & 1:  # a security key, and it was touched
        application, more = strings(more, 1)
        signed, touch = hashlib.sha256(application).digest() + touch + hashlib.sha256(signed).digest(), b""
    elif kind != "ssh-ed25519":
        return False
    return name == algorithm == kind.encode() and not more and not touch and ed25519(public, signed, value)


def ssh_keygen(kind, key, message, armour, namespace):
    """The same by OpenSSH's own program, for ECDSA and RSA keys."""
    with tempfile.TemporaryDirectory() as place:
        Path(place, "trusted").write_text(f"signer {kind} {key}\n")
        Path(place, "signature").write_text(armour)
        command = ["ssh-keygen", "-Y", "verify", "-I", "signer", "-n", namespace, "-f", "trusted", "-s", "signature"]
        try:
            return subprocess.run(command, input=message, capture_output=True, cwd=place, timeout=60).returncode == 0
        except FileNotFoundError:
            raise ValueError(f"a signature by a key of type {kind} needs ssh-keygen, which is not installed") from None


# ---- the Merkle tree (RFC 6962, section 2.1) and its signed heads (C2SP signed-note, tlog-checkpoint)
def leaf_hash(line):
    return hashlib.sha256(b"\0" + line).digest()


def node_hash(left, right):
    return hashlib.sha256(b"\1" + left + right).digest()


class Tree:
    """Only its peaks: (leaves, hash) of the complete subtrees, largest first."""

    def __init__(self):
        self.size, self.peaks = 0, []

    def append(self, one):
        self.size, leaves = self.size + 1, 1
        while self.peaks and self.peaks[-1][0] == leaves:
            one, leaves = node_hash(self.peaks.pop()[1], one), leaves * 2
        self.peaks.append((leaves, one))

    def root(self):
        hashes = [one for _, one in self.peaks] or [hashlib.sha256(b"").digest()]
        return functools.reduce(lambda right, left: node_hash(left, right), reversed(hashes))


def opened(note, vkey):
    """(size, root) of a checkpoint that this key signed. Raises ValueError with the reason."""
    name, hint, key = vkey.strip().split("+", 2)
    key = base64.b64decode(key, validate=True)
    mark = hashlib.sha256(name.encode() + b"\n" + key).digest()[:4]
    if key[:1] != b"\1" or len(key) != 33 or mark.hex() != hint:
        raise ValueError("the key that you gave is not the line name+id+key of an Ed25519 key")
    text, _, tail = note.rpartition("\n\n")
    for dash, signer, given in (line.split(" ") for line in tail.removesuffix("\n").split("\n")):
        value = base64.b64decode(given, validate=True)
        if (dash, signer, value[:4], base64.b64encode(value).decode()) == ("\u2014", name, mark, given):
            origin, size, root = text.split("\n")[:3]
            if origin != name or not ed25519(key[1:], text.encode() + b"\n", value[4:]):
                raise ValueError(f"the signature of {name} is wrong, or it is another log's ({origin})")
            return int(size), base64.b64decode(root, validate=True)
    raise ValueError(f"it is not signed by the key that you gave ({name}+{hint})")


# ---- used within declared
@functools.lru_cache(1 << 16)
def fits(glob, name):
    """* and ? mean something, nothing else; a name that could not be resolved ("?.x") fits only "*"."""
    if "*" not in glob and "?" not in glob:
        return glob == name
    pattern = ".*".join(".".join(map(re.escape, part.split("?"))) for part in glob.split("*"))
    return glob == "*" or (name[:2] != "?." and re.fullmatch(pattern, name, re.DOTALL) is not None)


def permitted(basics, verb, kind, name):
    """Whether the published list lets everyone who has basics do this."""
    if kind == "transaction" or (kind == "setting" and "." in name):
        return kind == "transaction" and verb in basics.get("transactions", ())
    lists = {("function", "call"): "functions", ("relation", "select"): "relations"}
    globs = basics.get("settings", {}).get(verb, ()) if kind == "setting" else basics.get(lists.get((kind, verb)), ())
    return any(fits(glob, name) for glob in globs) and not any(fits(glob, name) for glob in basics.get("except", ()))


def inside(rules, ses, touch):
    """Whether a declared line in force covers this touch ("verb kind name")."""
    verb, kind, name = touch.split(" ", 2)
    for _, who, target, verbs, globs, objects in rules.lines:
        if target != ses.target or not (who == ses.identity or (who[:1] == "@" and who[1:] in ses.groups)):
            continue
        if verbs == "basics":
            covered = permitted(rules.published.get(f"{ses.protocol}/{globs}", {}), verb, kind, name)
        else:
            named = verb in verbs.split(",") and (not objects or kind in objects.split(","))
            covered = named and any(fits(glob, name) for glob in globs.split(","))
        if covered:
            return True
    return False


def when(us):
    return datetime.datetime.fromtimestamp(us // 10**6, UTC).isoformat()


class Check:
    """One pass over a directory. failed: (where, what); counts: what was checked; notes: what people should know."""

    def __init__(self, directory, vkey, held=None, until_us=0):
        self.dir, self.failed, self.counts, self.notes = Path(directory), [], collections.Counter(), []
        self.where, self.newest, self.signed, self.tree, self.bent = "", 0, 0, Tree(), False
        self.chains, self.journals, self.known, self.rules, self.before = {}, {}, {}, {}, {}
        self.sessions, self.closed, self.keys, self.runs = {}, set(), set(), {}
        heads = self.heads(vkey, held)
        for line in self.rows("log/records.jsonl"):
            self.land(heads)
            self.where = f"log/records.jsonl:{self.tree.size + 1}"
            self.tree.append(leaf_hash(line))
            self.leaf(line, leaf_hash(line).hex())
        self.land(heads)
        for size, missed in sorted(heads.items()):
            what = f"covers {size} leaves, and log/records.jsonl ends after {self.tree.size}: its tail was cut"
            self.fail(what, missed[0][1])
        if self.newest < until_us:
            self.fail(f"the newest signed leaf is of {when(self.newest)}, not {when(until_us)}", "log/checkpoint")
        self.tails()

    def fail(self, what, where=None):
        self.failed.append((where or self.where, what))

    def rows(self, name):
        """The whole lines of a file; a torn last one was never signed."""
        if (self.dir / name).is_file():  # what is no plain file could keep us waiting
            with (self.dir / name).open("rb") as file:
                for row in iter(lambda: file.readline(1 << 20), b""):
                    if row[-1:] != b"\n" and len(row) < 1 << 20:
                        return
                    yield row.removesuffix(b"\n")

    def heads(self, vkey, held):
        """The tree heads to land on: {size: [(root, where)]}."""
        heads = collections.defaultdict(list)
        rows = list(self.rows("log/checkpoints.jsonl"))  # before the checkpoint: a log that runs writes it first
        for where in ("log/checkpoint", "the checkpoint you hold") if held else ("log/checkpoint",):
            try:
                ours = where == "log/checkpoint"
                size, root = opened((self.dir / where).read_text("utf-8") if ours else held, vkey)
                heads[size].append((root, where))
                self.signed = size if ours else self.signed
                self.counts["signatures of checkpoints"] += 1
            except (ValueError, OSError) as error:
                self.fail(f"cannot be trusted: {error}", where)
        for at, row in enumerate(rows, 1):
            found = re.fullmatch(rb'\{"note":".*","root":"([0-9a-f]{64})","size":([0-9]{1,15}),"t":[0-9]+\}', row)
            if not found:
                self.notes.append(f"log/checkpoints.jsonl:{at} cannot be read (torn by a crash, or altered)")
            else:
                heads[int(found[2])].append((bytes.fromhex(found[1].decode()), f"log/checkpoints.jsonl:{at}"))
        if heads and max(heads) > self.signed:
            self.fail(f"is older than {heads[max(heads)][0][1]}: {self.signed} leaves, {max(heads)}", "log/checkpoint")
        return heads

    def land(self, heads):
        """Compare with every head of this size."""
        for root, where in heads.pop(self.tree.size, ()):
            if self.tree.root() != root:
                if not self.bent or where[-1].isalpha():  # of the history, only the first that does not fit
                    self.fail(f"its root is not that of the first {self.tree.size} lines of log/records.jsonl", where)
                self.bent = True

    def leaf(self, line, digest):
        try:
            leaf = json.loads(line)
            if json.dumps(leaf, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode() != line:
                self.fail("is not in canonical form and could be read in two ways")
            if not 0 < leaf["t"] < LATEST_US:
                raise ValueError("its time is none")
            self.newest = max(self.newest, leaf["t"]) if self.tree.size <= self.signed else self.newest
            self.chain(leaf, digest)
            inst, kind = leaf["inst"], leaf["kind"]
            if inst not in self.journals and NAME.fullmatch(inst):
                self.journals[inst] = self.rows(f"journal/{inst}.jsonl")
            if next(iter(self.journals[inst] or ()), line) != line:
                self.fail(f"is not line {leaf['iseq']} of journal/{inst}.jsonl")
                self.journals[inst] = None
            record = SimpleNamespace(**EMPTY | leaf, signers={}, used=None)
            if kind in ("document", "rules", "jwks", "approval.request", "approval.decide"):
                self.known[digest] = record
            if read := getattr(self, "on_" + kind.replace(".", "_"), None):
                read(record)
        except BROKEN as error:
            self.fail(f"cannot be read ({type(error).__name__}: {error})")

    def chain(self, leaf, digest):
        last, before = self.chains.get(leaf["inst"], (0, None))
        if leaf["iseq"] != last + 1 or leaf.get("iprev") != before:
            self.fail(f"does not follow line {last} of {leaf['inst']}: a line was altered, removed, added or moved")
        self.chains[leaf["inst"]] = (leaf["iseq"], digest)

    def tails(self):
        """What the journals hold behind the log, and what has not ended."""
        for path in sorted((self.dir / "journal").glob("*.jsonl")):
            rows = list(self.journals.get(path.stem, self.rows(f"journal/{path.name}")) or ())
            t = self.newest
            for line in rows:
                self.where = f"journal/{path.name}:{self.chains.get(path.stem, (0, ''))[0] + 1}"
                try:
                    leaf = json.loads(line)
                    self.chain(leaf, leaf_hash(line).hex())
                    t = max(t, min(leaf["t"], LATEST_US))
                except BROKEN:
                    self.fail("cannot be read")
            self.notes += [f"{len(rows)} lines of journal/{path.name} are not in the log yet"] * bool(rows)
            if t - self.newest > LAG_US:
                self.fail(f"the signed log ends {when(self.newest)}, this journal {when(t)}", f"journal/{path.name}")
        unsigned = max(0, self.tree.size - self.signed)
        self.notes += [f"the last {unsigned} lines of log/records.jsonl are not signed yet"] * bool(unsigned)
        self.notes += [f"session {name} ({one.identity}) has not ended yet" for name, one in self.sessions.items()]
        self.notes += [f"approvals were signed with {key}" for key in sorted(self.keys)]  # people can compare these

    def refer(self, digest, kind, /, **fields):
        """The earlier leaf that is meant by this hash, if it says what it is said to say."""
        leaf = self.known.get(digest)
        if leaf is None or leaf.kind != kind or any(getattr(leaf, name, "") != fields[name] for name in fields):
            raise ValueError(f"it names {digest[:16]!r}, which is no earlier {kind} with {fields}")
        return leaf

    def on_rules(self, leaf):
        for name, _, digest in (entry.rpartition("=") for entry in leaf.documents):
            self.refer(digest, "document", document=name)

    def on_rules_active(self, leaf):
        old = self.rules.get(leaf.inst)
        leaf.lines = [line.split("|") for line in leaf.declared]
        if any(len(line) != 6 for line in leaf.lines):
            raise ValueError("a declared line that has not six parts")
        if leaf.version:
            self.refer(leaf.apply, "rules", version=leaf.version, digest=leaf.digest)
        data = (self.dir / f"log/basics/{int(leaf.basics, 16):064x}.json").read_bytes() if leaf.basics else b"{}"
        if leaf.basics and hashlib.sha256(data).hexdigest() != leaf.basics:
            raise ValueError(f"log/basics/{leaf.basics}.json was altered")
        leaf.published, leaf.inside = json.loads(data), set()
        if old and old.more:
            leaf.lines = old.lines + leaf.lines
        else:
            self.before[leaf.inst] = old
        self.rules[leaf.inst] = leaf

    def on_instance_start(self, leaf):
        self.runs[leaf.inst] = self.tree.size

    def on_instance_stop(self, leaf):
        self.ended(leaf, self.tree.size)

    def ended(self, leaf, before):
        """What an earlier run left open must be closed before anything new begins."""
        for name in [name for name, one in self.sessions.items() if one.inst == leaf.inst and one.opened < before]:
            self.fail(f"session {name} was never closed", f"log/records.jsonl:{self.sessions.pop(name).opened}")

    def on_heartbeat(self, leaf):
        if leaf.opened - leaf.closed != leaf.open or leaf.accepted < leaf.rejected + leaf.opened:
            self.fail("counts connections that do not add up")

    def on_session_open(self, leaf):
        self.ended(leaf, self.runs.pop(leaf.inst, 0))
        if leaf.ses in self.sessions or leaf.ses in self.closed or not NAME.fullmatch(leaf.ses):
            self.fail(f"session {leaf.ses} was there before")
        if leaf.identity_ref:
            self.refer(leaf.identity_ref, "document", document=f"Identity/{leaf.identity}")
        leaf.opened, leaf.n, leaf.open = self.tree.size, 0, set()
        self.sessions[leaf.ses] = leaf

    def on_session_close(self, leaf):
        one = self.sessions.pop(leaf.ses)
        self.closed.add(leaf.ses)
        if one.inst != leaf.inst or one.n != leaf.exchanges:
            self.fail(f"session {leaf.ses} ends with exchange {leaf.exchanges}; the last one recorded is {one.n}")
        self.counts["exchanges with an unknown outcome"] += len(one.open)
        for field, suffix in (("recording", "rec"), ("originals", "orig")):
            name, wanted, digest = f"recordings/{leaf.ses}.{suffix}", getattr(leaf, field), hashlib.sha256()
            if wanted and not (self.dir / name).is_file():
                self.fail(f"is missing, and {self.where} names it", name)
            elif wanted:
                with (self.dir / name).open("rb") as file:
                    for block in iter(lambda: file.read(1 << 20), b""):
                        digest.update(block)
                self.counts["recordings"] += 1
                if digest.hexdigest() != wanted:
                    self.fail(f"is not the file that {self.where} names", name)

    def on_request(self, leaf):
        ses, rules = self.sessions[leaf.ses], self.rules[leaf.inst]
        if ses.inst != leaf.inst or leaf.n != ses.n + 1:
            self.fail(f"exchange {leaf.n} of session {leaf.ses} does not follow exchange {ses.n}")
        ses.n = leaf.n
        if rules.version != leaf.rules and leaf.t - rules.t <= SWAP_US:
            rules = self.before[leaf.inst] or rules
        if rules.version != leaf.rules:
            self.fail(f"was judged by rules {leaf.rules}, and {rules.version} were in force")
        self.counts[f"requests: {leaf.decision}"] += 1
        if leaf.decision not in ("allow", "deny", "hold"):
            raise ValueError(f"{leaf.decision!r} is no decision")
        if leaf.decision != "allow" or leaf.phase == "prepare":
            return
        ses.open.add(leaf.n)
        if not leaf.complete or leaf.t > ses.expires_us + GRACE_US:
            self.fail("was released although it was not fully read, or its session had expired")
        for touch in leaf.touches:
            self.counts["touches judged again"] += 1
            asked = (ses.identity, *ses.groups, ses.target, ses.protocol, touch)
            if asked in rules.inside or inside(rules, ses, touch):
                rules.inside.add(asked)  # the same again need not be worked out again
            else:
                self.fail(f"outside what is declared for {ses.identity} at {ses.target}: {touch}")
        if leaf.approval:
            self.approved(leaf, ses)

    def on_response(self, leaf):
        for name, n, status in (result.split(":", 3)[:3] for result in leaf.results):
            ses = self.sessions[name]
            self.counts["exchanges with an unknown outcome"] += status == "unknown"
            if status == "ok" and int(n) not in ses.open:
                self.fail(f"exchange {n} of session {name} succeeded, and no record says that it was released")
            ses.open.discard(int(n))

    def on_approval_decide(self, leaf):
        question = self.refer(leaf.request, "approval.request", approval=leaf.approval)
        if leaf.decision in ("approve", "deny"):
            meant = {name: getattr(question, name) for name in ("approval", "bound", "identity", "target")}
            meant |= {"person": leaf.person, "decision": leaf.decision}
            if meant.items() - json.loads(leaf.document).items() or leaf.t > question.expires_us + GRACE_US:
                self.fail(f"the document that {leaf.person} signed is about something else, or too late")
            if not ssh_signed(leaf.key, leaf.document.encode(), leaf.signature, "muniment-approval@v1"):
                raise ValueError(f"the signature of {leaf.person} does not hold")
            self.refer(leaf.person_ref, "document", document=f"Person/{leaf.person}")
            self.counts["signatures of people"] += 1
            self.keys.add(f"{leaf.key} of {leaf.person}")
            question.signers[leaf.person] = leaf.key if leaf.decision == "approve" else ""
        elif leaf.decision == "use":
            keys = set(question.signers.values())
            if len(keys) < question.count or "" in keys or question.used or leaf.t > question.expires_us + GRACE_US:
                self.fail(f"approval {leaf.approval} is used without {question.count} consents, twice, or too late")
            question.used = (leaf.ses, leaf.n)

    def approved(self, leaf, ses):
        question = self.refer(self.refer(leaf.approval, "approval.decide").request, "approval.request")
        if (question.used, question.identity, question.target) != ((leaf.ses, leaf.n), ses.identity, ses.target):
            self.fail(f"was released by approval {question.approval}, which was not used for it")
        question.used = "once"
        self.counts["approvals followed to their signatures"] += 1


def main(arguments=None):
    parser = argparse.ArgumentParser(description="Check a copied Muniment evidence directory offline.")
    parser.add_argument("directory", type=Path)
    parser.add_argument("--key", required=True, help="the log's public key, or a file that holds it")
    parser.add_argument("--checkpoint", type=Path, help="a checkpoint that you kept")
    parser.add_argument("--until", type=datetime.datetime.fromisoformat, help="the evidence must reach this time")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args(arguments)
    try:
        key = given.key if "+" in given.key else Path(given.key).read_text("utf-8")
        held = given.checkpoint and given.checkpoint.read_text("utf-8")
    except (OSError, ValueError) as error:
        parser.error(str(error))
    until = given.until.replace(tzinfo=given.until.tzinfo or UTC).timestamp() if given.until else 0
    check = Check(given.directory, key, held, int(until * 1e6))
    if given.json:
        page = {"ok": not check.failed, "size": check.signed, "newest_us": check.newest, "counts": check.counts}
        page["failed"] = [{"where": where, "what": what} for where, what in check.failed]
        print(json.dumps(page | {"notes": check.notes, "cannot": CANNOT}, indent=1))
    else:
        print(f"Evidence in {given.directory}: {check.signed} signed leaves, the newest of {when(check.newest)}\n")
        print("Checked\n" + "".join(f"  {count:9,} {name}\n" for name, count in sorted(check.counts.items())))
        for title, lines in (("Notes", check.notes), ("What this cannot tell", CANNOT)):
            print(title + "\n" + "".join(f"  - {line}\n" for line in lines))
        for where, what in check.failed[:50]:
            print(f"FAILED {where}: {what}")
        print(f"RESULT: {len(check.failed)} failed" if check.failed else "RESULT: everything that was checked holds")
    return 1 if check.failed else 0


if __name__ == "__main__":
    sys.exit(main())
