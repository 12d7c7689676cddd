"""Compiles the scan room where a C compiler and Cython are found; without them the plain files run."""

from __future__ import annotations

import os
from pathlib import Path

from setuptools import Extension, setup

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


setup(ext_modules=extensions())
