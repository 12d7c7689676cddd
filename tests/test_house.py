"""The house rules and the documentation, held true."""

from __future__ import annotations

import ast
import importlib.machinery
import os
import re
import shlex
import subprocess
import sys
import tomllib
from functools import cache
from pathlib import Path

import pytest

from tests.scan.conftest import compiled_file

ROOT = Path(__file__).parent.parent
SRC = ROOT / "src" / "muniment"
MODULES = sorted(SRC.rglob("*.py"))
ROOMS = sorted(path.parent for path in SRC.glob("*/__init__.py"))
PLAIN_SUFFIXES = {".py", ".pxd", ".md", ".toml", ".txt", ".in", ".yaml", ".yml", ".json", ".sh", ".sql", ""}

LONGEST = 400  # lines of a module
LONGER = {
    # file: why it is one file although it is longer
}
# Where a library is imported in more than its one home file, and why that is no second home.
MORE_HOMES = {
    "cryptography": "primitives: signing, sealing, certificates and signatures of people are different files by design",
    "alembic": "the migrations themselves are written in it",
    "httpx": "the command line calls our own API, discovery calls issuers: two peers, two sets of limits",
    "sqlalchemy": "the store's tables and its migrations",
    "typer": "the commands, one file a family",
    "rich": "the command line's output, its progress bars, and the demo's headings",
}
PART_OF = {"yaml": "pyyaml", "starlette": "fastapi"}  # imported as -> what brings it
CATCHES_ALL = {"doors/wire/relay.py", "doors/http/server.py"}  # the relay and the HTTP door: our bug ends one session


@cache
def tracked() -> tuple[Path, ...]:
    """Every file of the project that is text, as git knows it."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True)
    files = (ROOT / name for name in listed.stdout.split("\0") if name)
    return tuple(path for path in files if path.is_file() and path.suffix in PLAIN_SUFFIXES)


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text("utf-8"))


def name(path: Path) -> str:
    return path.relative_to(SRC).as_posix()


def lines_matching(pattern: str, paths: tuple[Path, ...]) -> list[str]:
    wanted = re.compile(pattern)
    return [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()[:100]}"
        for path in paths
        for number, line in enumerate(path.read_text("utf-8").splitlines(), 1)
        if wanted.search(line)
    ]


# --- the tree ---


def test_no_file_names_a_path_of_one_machine() -> None:
    assert lines_matching(r"(^|[^a-zA-Z0-9_.])/(work|farm|root|home)" + r"/\w", tracked()) == []


def test_no_file_names_a_package_index() -> None:
    asks = r"(--(extra-)?index-" + r"url|--find-" + r"links|--trusted-" + r"host|files\.python" + r"hosted)"
    assert lines_matching(asks, tracked()) == []


def test_every_pinned_requirement_has_a_hash() -> None:
    for path in (ROOT / "requirements").glob("*.txt"):
        pins = re.split(r"\n(?=[a-z0-9])", path.read_text("ascii"))
        pins = [pin for pin in pins if "==" in pin]
        assert pins, path.name
        assert [pin.splitlines()[0] for pin in pins if "--hash=sha256:" not in pin] == []


@pytest.mark.parametrize("script", [".ci/run", "scripts/demo", "scripts/test"])
def test_the_commands_can_be_run(script: str) -> None:
    assert os.access(ROOT / script, os.X_OK)
    subprocess.run(["bash", "-n", str(ROOT / script)], check=True)


def test_ci_runs_the_same_command_as_a_developer() -> None:
    assert "scripts/test" in (ROOT / ".ci" / "run").read_text("utf-8")


# --- rooms and modules ---


@pytest.mark.parametrize("room", ROOMS, ids=lambda room: room.name)
def test_a_rooms_init_is_a_docstring_of_at_most_15_lines(room: Path) -> None:
    body = tree(room / "__init__.py").body
    assert len(body) == 1, "nothing but the docstring stands here"
    text = ast.get_docstring(tree(room / "__init__.py")) or ""
    assert 3 <= len(text.splitlines()) <= 15
    assert "May import:" in text
    assert "Never here:" in text


@pytest.mark.parametrize("module", MODULES, ids=name)
def test_a_module_says_what_it_is_and_fits_in_the_head(module: Path) -> None:
    assert ast.get_docstring(tree(module)), "a module starts with a docstring"
    count = len(module.read_text("utf-8").splitlines())
    assert count <= LONGEST or name(module) in LONGER, f"{count} lines; split it, or give the reason in LONGER"


def test_no_reason_is_kept_for_a_module_that_has_become_short() -> None:
    long = {name(module) for module in MODULES if len(module.read_text("utf-8").splitlines()) > LONGEST}
    assert set(LONGER) <= long


def test_tasks_are_started_by_spawn_alone() -> None:
    found = []
    for module in MODULES:
        spawns = [node for node in ast.walk(tree(module)) if isinstance(node, ast.FunctionDef) and node.name == "spawn"]
        inside = {id(each) for spawn in spawns for each in ast.walk(spawn)}
        found += [
            f"{name(module)}:{node.lineno}"
            for node in ast.walk(tree(module))
            if isinstance(node, ast.Attribute | ast.Name)
            and (node.attr if isinstance(node, ast.Attribute) else node.id) in {"create_task", "ensure_future"}
            and id(node) not in inside
        ]
    assert found == []


def test_everything_is_caught_in_two_places_only() -> None:
    found = []
    for module in MODULES:
        for node in ast.walk(tree(module)):
            if isinstance(node, ast.ExceptHandler) and _catches_all(node) and not _raises_again(node):
                found.append(f"{name(module)}:{node.lineno}")
    assert [place for place in found if place.partition(":")[0] not in CATCHES_ALL] == []


def _catches_all(handler: ast.ExceptHandler) -> bool:
    kinds = handler.type.elts if isinstance(handler.type, ast.Tuple) else [handler.type]
    return any(
        kind is None or (isinstance(kind, ast.Name) and kind.id in {"Exception", "BaseException"}) for kind in kinds
    )


def _raises_again(handler: ast.ExceptHandler) -> bool:
    """Clean-up that passes the error on catches nothing."""
    return isinstance(handler.body[-1], ast.Raise)


def test_what_is_compiled_was_made_of_the_sources_that_stand_here() -> None:
    old = [
        plain.name
        for plain in (SRC / "scan").glob("*.py")
        if plain.with_suffix(importlib.machinery.EXTENSION_SUFFIXES[0]).exists() and compiled_file(plain.stem) is None
    ]
    assert old == [], "other code than this runs: scripts/test compiles anew, or remove src/muniment/scan/*.so"


# --- dependencies ---


def _requirements(kind: str) -> set[str]:
    text = (ROOT / "requirements" / f"{kind}.in").read_text("ascii")
    return {line.strip() for line in text.splitlines() if line.strip() and not line.startswith("-r")}


def _imports() -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for module in MODULES:
        for node in ast.walk(tree(module)):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) and not node.level else []
            names += _looked_up(node)
            for each in names:
                found.setdefault(each.partition(".")[0], set()).add(name(module))
    return found


def _looked_up(node: ast.AST) -> list[str]:
    """What a `find_spec("name")` asks for: a package whose files are used without running its code."""
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "find_spec":
        return [one.value for one in node.args if isinstance(one, ast.Constant) and isinstance(one.value, str)]
    return []


def test_the_packages_dependencies_are_the_pinned_ones() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    assert set(project["dependencies"]) == _requirements("runtime")
    assert set(project["optional-dependencies"]["demo"]) == _requirements("demo")


@pytest.mark.parametrize("package", sorted(_requirements("runtime") | _requirements("demo")))
def test_a_dependency_has_a_home_and_a_decision(package: str) -> None:
    module = {"pyyaml": "yaml"}.get(package, package.replace("-", "_"))
    homes = _imports().get(module, set())
    assert homes, "nothing imports it: remove it from requirements"
    assert len(homes) == 1 or package in MORE_HOMES, f"one home file, not {sorted(homes)}"
    decided = "\n".join(path.read_text("utf-8") for path in (ROOT / "docs" / "decisions").glob("*.md"))
    assert re.search(rf"\b{re.escape(package)}\b", decided, re.IGNORECASE), "no decision says why it is here"


def test_nothing_is_imported_that_is_not_pinned() -> None:
    known = {package.replace("-", "_") for package in _requirements("runtime") | _requirements("demo")}
    foreign = set(_imports()) - set(sys.stdlib_module_names) - {"muniment"}
    assert {package for package in foreign if PART_OF.get(package, package) not in known} == set()


# --- documentation ---

DOCUMENTS = tuple(path for path in tracked() if path.suffix == ".md")


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_every_link_leads_somewhere(document: Path) -> None:
    for link in re.findall(r"\]\(([^)\s]+)\)", document.read_text("utf-8")):
        if link.startswith(("http://", "https://", "mailto:")):
            continue
        where, _, anchor = link.partition("#")
        there = (document.parent / where) if where else document
        assert there.exists(), f"{link} does not exist"
        if anchor:
            assert anchor in _anchors(there), f"{link}: no such heading"


def _anchors(document: Path) -> set[str]:
    headings = re.findall(r"^#+ (.+)$", document.read_text("utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def _commands() -> list[tuple[str, str]]:
    """Every line of a code block without a language that starts with one of our programs: (document, line)."""
    found = []
    for document in DOCUMENTS:
        for language, block in re.findall(r"^```(\w*)\n(.*?)^```", document.read_text("utf-8"), re.M | re.S):
            if language not in {"", "sh", "console"}:
                continue
            for line in block.splitlines():
                line = line.removeprefix("$ ").partition("  #")[0].strip()
                if re.match(r"(scripts/|\.ci/|muniment |just |python -m )", line):
                    found.append((document.relative_to(ROOT).as_posix(), line))
    return found


@pytest.mark.parametrize(("document", "line"), _commands())
def test_every_command_that_a_document_shows_exists(document: str, line: str) -> None:
    words = shlex.split(line)
    if words[0] == "just":
        recipes = re.findall(r"^([a-z]+)\b.*:", (ROOT / "justfile").read_text("utf-8"), re.M)
        assert words[1] in recipes
    elif words[0] == "python":
        assert (ROOT / words[2].replace(".", "/")).with_suffix(".py").exists() or (ROOT / words[2]).is_dir()
    elif words[0] == "muniment":
        path = [word for word in words[1:] if re.fullmatch(r"[a-z-]+", word)]
        assert _command_exists(path), f"{document}: muniment {' '.join(path)}"
    else:
        assert os.access(ROOT / words[0], os.X_OK)


def _command_exists(path: list[str]) -> bool:
    """Whether the words lead to a command; words after it are its arguments."""
    import typer.main

    from muniment.doors.cli.main import app

    command = typer.main.get_command(app)
    for word in path:
        below = getattr(command, "commands", None)
        if below is None:
            return True
        if word not in below:
            return False
        command = below[word]
    return not getattr(command, "commands", None)


def test_no_document_and_no_output_tells_people_to_trust_whoever_answers() -> None:
    """sslmode=require hands the token to any server: only the bench, which has no token, may say it."""
    said = tuple(path for path in tracked() if path.suffix == ".md" or SRC in path.parents)
    assert [hit for hit in lines_matching(r"sslmode=['\"]?require\b", said) if "Never" not in hit] == []


def test_the_changelog_starts_with_what_is_unreleased_and_ends_no_line_of_history() -> None:
    headings = re.findall(r"^## (.+)$", (ROOT / "CHANGELOG.md").read_text("utf-8"), re.M)
    assert headings[0] == "Unreleased"
    for heading in headings[1:]:
        assert re.fullmatch(r"\d+\.\d+\.\d+ \(\d{4}-\d\d-\d\d\)", heading)


def test_decisions_are_numbered_once_and_say_whether_they_hold() -> None:
    decisions = sorted((ROOT / "docs" / "decisions").glob("*.md"))
    numbers = [path.name[:4] for path in decisions]
    assert len(set(numbers)) == len(numbers)
    for path in decisions:
        assert re.fullmatch(r"\d{4}-[a-z0-9-]+\.md", path.name)
        assert re.match(rf"# (ADR )?{path.name[:4]}\b", path.read_text("utf-8")), (
            f"{path.name}: its number stands in its title"
        )


def test_every_room_is_in_the_architecture() -> None:
    text = (ROOT / "ARCHITECTURE.md").read_text("utf-8")
    assert [room.name for room in ROOMS if f"| `{room.name}` |" not in text] == []


@pytest.mark.parametrize("document", ["ARCHITECTURE.md", "README.md", "CONTRIBUTING.md"])
def test_every_file_that_a_document_names_exists(document: str) -> None:
    text = (ROOT / document).read_text("utf-8")
    named = re.findall(r"`((?:[a-z_]+/)+[a-z_]+\.(?:py|md|sh))`", text)
    missing = [each for each in named if not (ROOT / each).exists() and not (SRC / each).exists()]
    assert [each for each in missing if not list(SRC.rglob(each))] == []
