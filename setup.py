"""Compiles the scan room where a C compiler and Cython are found; without them the plain files run."""

from __future__ import annotations

import hashlib
import os
import shutil
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.command.build_py import build_py

COMPILED = sorted(str(p) for p in Path("src/muniment/scan").glob("*.py") if p.name != "__init__.py")


def extensions() -> list[Extension]:
    """What to compile: nothing when MUNIMENT_PLAIN is set or Cython is missing."""
    if os.environ.get("MUNIMENT_PLAIN"):
        return []
    try:
        from Cython.Build import cythonize
    except ImportError:
        return []
    modules = [Extension(path[4:-3].replace("/", "."), [path], optional=True) for path in COMPILED]
    directives = {"language_level": 3, "boundscheck": True, "wraparound": False}
    built: list[Extension] = cythonize(modules, compiler_directives=directives, build_dir="build")
    return built


class WithDigest(build_ext):
    """Says in a checkout what the compiled files were made of: file times say nothing after a `git checkout`."""

    def run(self) -> None:
        """Compile, then keep the digest of all sources, as `cat scan/*.p* | sha256sum` makes it."""
        super().run()
        if self.inplace or self.editable_mode:
            room = Path("src/muniment/scan")
            sources = b"".join(path.read_bytes() for path in sorted(room.glob("*.p*")))
            (room / "compiled.sha256").write_text(hashlib.sha256(sources).hexdigest() + "\n", "ascii")


class WithVerifier(build_py):
    """Ships the stand-alone verifier inside the wheel; in a checkout it is found where it stands."""

    def run(self) -> None:
        """Build, then copy verify.py."""
        super().run()
        if not self.editable_mode:
            place = Path(self.build_lib, "muniment", "verifier")
            place.mkdir(parents=True, exist_ok=True)
            shutil.copyfile("verifier/verify.py", place / "verify.py")


setup(ext_modules=extensions(), cmdclass={"build_py": WithVerifier, "build_ext": WithDigest})
