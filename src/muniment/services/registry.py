"""The rules in force: applied, versioned, loaded, watched, and swapped whole.

The set comes from `apply` or from a directory of manifests; where there is a directory it is the only truth. A change
is checked completely, written to the journal, kept as a numbered version, and only then swapped. What is broken changes
nothing: the rules before it stay in force and `problem` says why.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from muniment.judge import manifests, policy
from muniment.judge.documents import Document
from muniment.model.entries import DocumentVersion, Entry, RulesActive, RulesApply
from muniment.model.errors import ConfigError, Problem, Unavailable
from muniment.model.rules import Rules
from muniment.proof import canonical
from muniment.services.approvals import Record
from muniment.store import manifests as rows
from muniment.store.database import Database
from muniment.store.manifests import ApplyRow, ManifestRow

MAX_FILES = 1000
MAX_BYTES = 4 << 20  # of all texts of one apply; a document is a kilobyte
POLL_S = 0.5  # how often the directory is looked at; an edit is in force within a second
LINE_BYTES = 20 << 10  # of one entry's list; a leaf holds at most 32 KiB
DIRECTORY = "the manifests directory"
log = logging.getLogger("muniment.registry")

File = tuple[str, str]  # name, text


@dataclass(frozen=True, slots=True)
class Applied:
    """What an apply did, or would do. words: its difference, a line each; changed: False when there was none."""

    version: int
    words: tuple[str, ...]
    changed: bool


@dataclass(frozen=True, slots=True)
class _Set:
    """A checked set of documents. words: its difference to what is in force; new: (document, removed)."""

    rules: Rules
    documents: tuple[Document, ...]
    words: tuple[str, ...]
    new: tuple[tuple[Document, bool], ...]


class Registry:
    """The one owner of the rules. `current` is replaced as a whole and never changed in place."""

    def __init__(
        self,
        database: Database,
        journal: Record,
        *,
        now_us: Callable[[], int],
        directory: Path | None = None,
        basics: str = "",
    ) -> None:
        """directory: of manifests, None where `apply` is used; basics: digest of the published list in force."""
        self.current = Rules()
        self.documents: tuple[Document, ...] = ()
        self.problem = ""
        self.directory = directory
        self._database = database
        self._journal = journal
        self._now_us = now_us
        self._basics = basics
        self._order = asyncio.Lock()
        self._callbacks: list[Callable[[Rules, Rules], object]] = []
        self._seen: tuple[tuple[str, int, int], ...] = ()

    def on_change(self, callback: Callable[[Rules, Rules], object]) -> None:
        """Have `callback(old, new)` called right after each swap. It must not wait and must not raise."""
        self._callbacks.append(callback)

    async def start(self) -> None:
        """Load the last version, then the directory where there is one, and put it in force.

        Raises ConfigError when the directory's documents are broken: a start has no rules to fall back on that anybody
        looked at today.
        """
        async with self._order:
            last, stored = await asyncio.to_thread(rows.load, self._database)
            if last is not None:
                files = [(f"{row.file} (version {row.version})", row.text) for row in stored]
                # what has expired since it was applied must not stop a start: it is known, and grants nothing
                known = {row.digest for row in stored}
                found = await asyncio.to_thread(self._check, files, known)
                refs = {f"{row.kind}/{row.name}": row.leaf for row in stored}
                rules = replace(found.rules, version=last.version, digest=last.digest, refs=refs)
                self._swap(rules, found.documents, last.leaf)
            elif self.directory is None:
                self._swap(Rules(digest=manifests.set_digest(())), (), "")
            if self.directory is not None:
                self._seen = await asyncio.to_thread(_look, self.directory)
                files = await asyncio.to_thread(_read, self.directory)
                found = await asyncio.to_thread(self._check, files)
                if last is None or found.new:
                    await self._commit(found, DIRECTORY)
            await self._journal.durable()

    async def apply(self, files: Sequence[File], *, by: str, prune: bool = False, dry_run: bool = False) -> Applied:
        """Check these documents together with those in force, and put the result in force.

        prune: what is in force and not in `files` is removed; else it stays. Raises ConfigError with every problem;
        Unavailable when the version cannot be kept. Nothing has changed then.
        """
        if self.directory is not None:
            problem = Problem("apply", f"{self.directory} is the only truth of this gateway", "edit the files in it")
            raise ConfigError(problem)
        if len(files) > MAX_FILES or sum(len(text) for _, text in files) > MAX_BYTES:
            problem = Problem(
                "apply", "it is too large", f"at most {MAX_FILES} files and {MAX_BYTES >> 20} MiB together"
            )
            raise ConfigError(problem)
        async with self._order:
            keys = await asyncio.to_thread(manifests.named, files)
            kept = [] if prune else [one for one in self.documents if (one.kind, one.name) not in keys]
            stored = [(f"{one.file}:{one.line} (in force)", one.text) for one in kept]
            found = await asyncio.to_thread(self._check, [*files, *stored])
            origin = {(one.kind, one.name): one for one in kept}
            found = replace(found, documents=tuple(origin.get((one.kind, one.name), one) for one in found.documents))
            if dry_run or not found.new:
                return Applied(self.current.version + bool(found.new), found.words, bool(found.new))
            version = await self._commit(found, by)
            await self._journal.durable()
            return Applied(version, found.words, True)

    async def versions(self, limit: int = 100) -> list[ApplyRow]:
        """The numbered versions of the set, newest first."""
        return await asyncio.to_thread(rows.versions, self._database, limit)

    async def watch(self) -> None:
        """Follow the directory for ever; started by the program where there is one."""
        while self.directory is not None:
            await asyncio.sleep(POLL_S)
            await self.reload()

    async def reload(self) -> None:
        """Take over the directory if it has changed. What is broken is said in `problem` and changes nothing."""
        if self.directory is None:
            return
        seen: tuple[tuple[str, int, int], ...] = ()  # where it cannot be looked at, it is read when it is there again
        try:
            seen = await asyncio.to_thread(_look, self.directory)
            if seen == self._seen:
                return
            async with self._order:
                files = await asyncio.to_thread(_read, self.directory)
                found = await asyncio.to_thread(self._check, files)
                if found.new:
                    version = await self._commit(found, DIRECTORY)
                    await self._journal.durable()
                    log.info("rules changed", extra={"version": version, "changes": list(found.words)})
            self._seen, self.problem = seen, ""
        except ConfigError as error:
            self._seen = seen
            self._say(f"the manifests are broken, version {self.current.version} stays in force:\n{error}")
        except (Unavailable, OSError) as error:  # nothing is wrong with the documents: try again the next time
            self._say(f"the manifests cannot be taken over, version {self.current.version} stays in force: {error}")

    def _say(self, problem: str) -> None:
        if problem != self.problem:
            log.error("rules not changed", extra={"problem": problem})
        self.problem = problem

    def _check(self, files: Sequence[File], known: Collection[str] = ()) -> _Set:
        """Parse and compare. known: digests of documents in force, besides our own. Raises ConfigError with every
        problem."""
        in_force = {one.digest for one in self.documents}.union(known)
        rules = manifests.parse(files, self._now_us(), in_force)
        documents = tuple(manifests.documents(files))
        before = {(one.kind, one.name): one for one in self.documents}
        after = {(one.kind, one.name): one for one in documents}
        new = [(one, False) for key, one in after.items() if key not in before or before[key].digest != one.digest]
        new += [(one, True) for key, one in before.items() if key not in after]
        words = tuple(manifests.diff(self.documents, documents))
        return _Set(rules, documents, words, tuple(new))

    async def _commit(self, found: _Set, by: str) -> int:
        """Write the version to the journal and the database, then swap."""
        now = self._now_us()
        version = self.current.version + 1
        entries = [
            DocumentVersion(
                document=f"{one.kind}/{one.name}", version=version, digest="" if removed else one.digest,
                removed=removed, text="" if removed else one.text,
            )
            for one, removed in found.new
        ]  # fmt: skip
        leaves = self._journal.append(entries) if entries else []
        names = [f"{entry.document}={leaf}" for entry, leaf in zip(entries, leaves, strict=True)]
        applies: list[Entry] = [
            RulesApply(version=version, digest=found.rules.digest, documents=tuple(part), asserted_by=by)
            for part in _parts(names)
        ]
        leaf = self._journal.append(applies)[-1]
        await self._journal.durable()
        changed = [
            ManifestRow(version, one.kind, one.name, "" if removed else one.digest, "" if removed else one.text,
                        one.file, one.line, removed, hashed, now)
            for (one, removed), hashed in zip(found.new, leaves, strict=True)
        ]  # fmt: skip
        apply = ApplyRow(version, found.rules.digest, leaf, by, now)
        await asyncio.to_thread(rows.save, self._database, apply, changed)
        refs = self.current.refs | {f"{row.kind}/{row.name}": row.leaf for row in changed}
        present = {f"{one.kind}/{one.name}" for one in found.documents}
        refs = {key: ref for key, ref in refs.items() if key in present}
        self._swap(replace(found.rules, version=version, refs=refs), found.documents, leaf)
        return version

    def _swap(self, rules: Rules, documents: tuple[Document, ...], apply: str) -> None:
        """Put a snapshot in force: first in the journal, at once in memory, so that no request falls between."""
        parts = list(_parts(policy.declared(rules)))
        self._journal.append(
            [
                RulesActive(version=rules.version, digest=rules.digest, apply=apply, declared=tuple(part),
                            basics=self._basics, more=nth < len(parts) - 1)
                for nth, part in enumerate(parts)
            ]
        )  # fmt: skip
        old, self.current, self.documents = self.current, rules, documents
        for callback in self._callbacks:
            callback(old, rules)


def _parts(items: Sequence[str]) -> Iterator[list[str]]:
    """The items in lists that fit in a leaf; at least one list, which may be empty."""
    part: list[str] = []
    size = 0
    for item in items:
        length = len(canonical.encode({"": item}))
        if part and size + length > LINE_BYTES:
            yield part
            part, size = [], 0
        part.append(item)
        size += length
    yield part


def _paths(directory: Path) -> list[Path]:
    """The manifests of a directory, sorted. Raises ConfigError when it cannot be listed or holds too much."""
    try:
        found = sorted(
            path
            for path in directory.iterdir()
            if path.suffix in (".yaml", ".yml", ".json") and not path.name.startswith(".")
        )
    except OSError as error:
        problem = Problem(str(directory), f"cannot be listed ({error.strerror})", "let the gateway's user read it")
        raise ConfigError(problem) from error
    if len(found) > MAX_FILES:
        raise ConfigError(Problem(str(directory), "it holds too many files", f"at most {MAX_FILES}"))
    return found


def _look(directory: Path) -> tuple[tuple[str, int, int], ...]:
    """What changes when a file does: name, time and size of each."""
    seen = []
    for path in _paths(directory):
        status = path.stat()
        seen.append((path.name, status.st_mtime_ns, status.st_size))
    return tuple(seen)


def _read(directory: Path) -> list[File]:
    """The directory's files. Raises ConfigError for what cannot be read."""
    files: list[File] = []
    total = 0
    for path in _paths(directory):
        try:
            total += path.stat().st_size
            if total > MAX_BYTES:
                raise ConfigError(Problem(str(directory), "it is too large", f"at most {MAX_BYTES >> 20} MiB together"))
            files.append((path.name, path.read_text(encoding="utf-8")))
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(
                Problem(str(path), f"cannot be read ({error})", "mend the file or take it away")
            ) from error
    return files
