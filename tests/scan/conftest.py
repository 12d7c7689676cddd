"""Every test of the scan room runs on the plain files and on the compiled modules."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Iterator
from hashlib import sha256
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

import muniment.scan

FOLDER = Path(muniment.scan.__file__).parent
NAMES = ("rows", "tokens", "values", "quick")  # in the order in which they import each other


def compiled_file(name: str) -> Path | None:
    """The module compiled for this Python from the sources that stand here; None for one of other sources."""
    file = FOLDER / f"{name}{EXTENSION_SUFFIXES[0]}"
    made_of = FOLDER / "compiled.sha256"
    sources = b"".join(path.read_bytes() for path in sorted(FOLDER.glob("*.p*")))
    current = made_of.exists() and made_of.read_text("ascii").strip() == sha256(sources).hexdigest()
    return file if current and file.exists() else None


def load(files: dict[str, Path]) -> SimpleNamespace:
    """Import the room from these files, so that they see each other, and put back what was there before."""
    full = {name: f"muniment.scan.{name}" for name in NAMES}
    before = {name: (sys.modules.get(full[name]), getattr(muniment.scan, name, None)) for name in NAMES}
    loaded: dict[str, ModuleType] = {}
    try:
        for name in NAMES:
            spec = importlib.util.spec_from_file_location(full[name], files[name])
            assert spec is not None and spec.loader is not None
            module = importlib.util.module_from_spec(spec)
            sys.modules[full[name]] = module
            setattr(muniment.scan, name, module)
            spec.loader.exec_module(module)
            loaded[name] = module
    finally:
        for name, (module, attribute) in before.items():
            if module is None:
                sys.modules.pop(full[name], None)
            else:
                sys.modules[full[name]] = module
            if attribute is None and hasattr(muniment.scan, name):
                delattr(muniment.scan, name)
            elif attribute is not None:
                setattr(muniment.scan, name, attribute)
    return SimpleNamespace(**loaded)


@pytest.fixture(scope="session", params=["plain", "compiled"])
def scan(request: pytest.FixtureRequest) -> Iterator[SimpleNamespace]:
    """The modules of the room, by name."""
    if request.param == "plain":
        yield load({name: FOLDER / f"{name}.py" for name in NAMES})
        return
    files = {name: compiled_file(name) for name in NAMES}
    if None in files.values():
        pytest.skip("not compiled from these sources: scripts/test does it where there is a compiler")
    yield load({name: file for name, file in files.items() if file is not None})
