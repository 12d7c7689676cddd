"""The documents that people write, made into the rules in force: all problems at once, sorted by file and line.

A document is read (`documents`), checked against the shape of its kind (`kinds`), made into a noun (`nouns`), and then
all of them are looked at together (`reach`): names that do not exist, rules that can never fire.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

from muniment.judge import kinds, reach
from muniment.judge.documents import Document, Map, Node, Problems, Text, canonical, digest, meant, read
from muniment.judge.fields import NOT_IN_FORCE, check
from muniment.judge.nouns import Maker
from muniment.model.rules import Rules

__all__ = ["Document", "diff", "documents", "named", "parse"]

HEAD = ("apiVersion", "kind", "metadata", "spec")

File = tuple[str, str]


def parse(files: Sequence[File], now_us: int, known: Collection[str] = ()) -> Rules:
    """The rules that these texts state. Raises ConfigError with every problem.

    files: (name, text). known: digests of documents that are in force: time may have run out for those; any other
    document that has expired already at `now_us` is a problem, since it was most likely mistyped. `version` is 0 and
    `refs` is empty in the result; `digest` is that of the whole set.
    """
    problems = Problems()
    found = _documents(files, problems)
    rules = Rules(digest=set_digest(found))
    made: list[Document] = []
    broken: set[tuple[str, str]] = set()
    for document in found:
        spec = None
        if "spec" in document.node:
            spec = check(kinds.KINDS[document.kind], document.node["spec"], document.file, problems)
        else:
            problems.add(document.file, document.line, "`spec` is missing", "add `spec:` and its fields beneath")
        if spec is not None:
            maker = Maker(document, problems)
            maker.make(rules, spec)
            made.append(document)
            if document.digest not in known:
                _expired(rules, document, now_us, problems)
        if spec is None or maker.bad:
            broken.add((document.kind, document.name))
    reach.check(rules, made, broken, problems)
    problems.stop()
    return rules


def documents(files: Sequence[File]) -> tuple[Document, ...]:
    """The documents of these texts, by kind and name. Raises ConfigError where a text or a head cannot be read; what
    is inside `spec` is for `parse` to check."""
    problems = Problems()
    found = _documents(files, problems)
    problems.stop()
    return tuple(sorted(found, key=lambda document: (document.kind, document.name)))


def named(files: Sequence[File]) -> frozenset[tuple[str, str]]:
    """Kind and name of every document whose head can be read; what is wrong with the others is for `parse` to say."""
    return frozenset((one.kind, one.name) for one in _documents(files, Problems()))


def set_digest(found: Sequence[Document]) -> str:
    """Hex SHA-256 of the whole set: one line "Kind/name digest" a document, sorted."""
    return digest("".join(sorted(f"{one.kind}/{one.name} {one.digest}\n" for one in found)))


def _documents(files: Sequence[File], problems: Problems) -> list[Document]:
    """Every document with a readable head; of two with one name, the first."""
    found: dict[tuple[str, str], Document] = {}
    for file, text in files:
        for node in read(file, text, problems):
            document = _head(file, node, problems)
            if document is None:
                # nothing refers to a kind of a later release, so no name is missed with it
                problems.incomplete = problems.incomplete or node.get("kind") not in kinds.LATER_KINDS
                continue
            first = found.setdefault((document.kind, document.name), document)
            if first is not document:
                what = f"{document.kind}/{document.name} stands here and at {first.file}:{first.line}"
                problems.add(file, document.line, what, "rename one of them, or take it away")
    return list(found.values())


def _head(file: str, node: Map, problems: Problems) -> Document | None:
    """What a document is, from its head."""

    def wrong(name: str, what: str, mend: str) -> None:
        problems.add(file, node.lines.get(name, node.line), what, mend)

    for name in node:
        if name not in HEAD:
            wrong(name, f"unknown field `{name[:64]}`", meant(name, HEAD, "known here: " + ", ".join(HEAD)))
    version, kind = node.get("apiVersion"), node.get("kind")
    if version != kinds.API_VERSION:
        mend = f"write `apiVersion: {kinds.API_VERSION}`"
        wrong("apiVersion", "`apiVersion` is missing or not one that this release reads", mend)
    metadata = None
    if "metadata" in node:
        metadata = check(kinds.Metadata, node["metadata"], file, problems)
    else:
        wrong("metadata", "`metadata` is missing", "add `metadata: {name: ...}`")
    if not isinstance(kind, Text) or kind not in kinds.KINDS:
        if kind is None:
            wrong("kind", "`kind` is missing", "add `kind: ` and one of " + ", ".join(kinds.KINDS))
        elif isinstance(kind, Text) and kind in kinds.LATER_KINDS:
            wrong("kind", f"kind {kind} is {NOT_IN_FORCE}", "take the document away")
        else:
            mend = meant(str(kind), kinds.KINDS, "known kinds: " + ", ".join(kinds.KINDS))
            wrong("kind", f"unknown kind `{str(kind)[:64]}`", mend)
        return None
    if metadata is None:
        return None
    if metadata.labels and kind != "Target":
        inner = "write them under `spec`" if kind == "Identity" else "take them away"
        where = node["metadata"]
        line = where.lines["labels"] if isinstance(where, Map) else node.line
        problems.add(file, line, f"a {kind} has no labels in `metadata`", inner)
    text = canonical(node)
    return Document(str(kind), metadata.name, text, digest(text), file, node.line, node)


def _expired(rules: Rules, document: Document, now_us: int, problems: Problems) -> None:
    ends = 0
    if document.kind == "Identity":
        ends = rules.identities[document.name].expires_at_us
    elif document.kind == "Grant":
        ends = rules.grants[document.name].expires_at_us
    if ends and ends <= now_us:
        what = f"{document.kind}/{document.name} has expired already: it can never be used"
        problems.add(document.file, document.line_of("spec", "expires"), what, "write a date to come, or take it away")


# ---- the difference in words


def diff(old: Sequence[Document], new: Sequence[Document]) -> list[str]:
    """What an apply would change, one line each: "Grant/x: added", "Grant/x: spec.allow.1.verbs: + delete"."""
    before = {(one.kind, one.name): one for one in old}
    after = {(one.kind, one.name): one for one in new}
    words: list[str] = []
    for key in sorted(before.keys() | after.keys()):
        name = "/".join(key)
        if key not in after:
            words.append(f"{name}: removed")
        elif key not in before:
            words.append(f"{name}: added")
        elif before[key].digest != after[key].digest:
            _differ(before[key].node, after[key].node, "", lambda line, name=name: words.append(f"{name}: {line}"))  # type: ignore[misc]
    return words


def _differ(old: Node | None, new: Node | None, path: str, say: Callable[[str], None]) -> None:
    if old == new:
        return
    if isinstance(old, Map) and isinstance(new, Map):
        for key in sorted(old.keys() | new.keys()):
            _differ(old.get(key), new.get(key), f"{path}.{key}".removeprefix("."), say)
    elif isinstance(old, list) and isinstance(new, list):
        if all(isinstance(one, Text) for one in (*old, *new)):
            more = [str(one) for one in new if one not in old]
            less = [str(one) for one in old if one not in new]
            signs = [*(f"+ {one}" for one in more), *(f"- {one}" for one in less)] or ["another order"]
            say(f"{path}: " + ", ".join(signs))
            return
        for nth in range(max(len(old), len(new))):
            one, other = (side[nth] if nth < len(side) else None for side in (old, new))
            _differ(one, other, f"{path}.{nth + 1}", say)
    elif old is None and new is not None:
        say(f"{path}: + {_short(new)}")
    elif new is None and old is not None:
        say(f"{path}: - {_short(old)}")
    elif old != new and old is not None and new is not None:
        say(f"{path}: {_short(old)} -> {_short(new)}")


def _short(node: Node) -> str:
    text = str(node) if isinstance(node, Text) else canonical(node)
    return text if len(text) <= 200 else text[:200] + "..."
