# SPDX-License-Identifier: Apache-2.0
"""The wheel: pure Python; with the engine and the weights inside where the C programs were built before.

TRACKMILL_BUILD names the build folder (default: build/ of the checkout); "none" leaves the engine out.
Everything else is in pyproject.toml.
"""

import os
import shutil
from pathlib import Path

from setuptools import Distribution, setup
from setuptools.command.build_py import build_py

try:
    from setuptools.command.bdist_wheel import bdist_wheel
except ImportError:  # setuptools before 70.1
    from wheel.bdist_wheel import bdist_wheel

LIBRARY = "libtrackmill-engine.so"
ROOT = Path(__file__).resolve().parents[2]


def engine() -> Path | None:
    """The library of the build, if there is one."""
    chosen = os.environ.get("TRACKMILL_BUILD", "")
    if chosen == "none":
        return None
    library = (Path(chosen) if chosen else ROOT / "build") / "client" / "python" / "engine" / LIBRARY
    if chosen and not library.is_file():
        raise SystemExit(f"TRACKMILL_BUILD={chosen}: no {library}; build the target tm_embedded there")
    return library if library.is_file() else None


class Build(build_py):
    """Adds the engine and the weights to the package."""

    def run(self) -> None:
        super().run()
        library = engine()
        if library and not self.editable_mode:
            package = Path(self.build_lib) / "trackmill"
            shutil.copyfile(library, package / LIBRARY)
            (package / "weights").mkdir(exist_ok=True)
            for weights in (ROOT / "weights").glob("*.safetensors"):
                shutil.copyfile(weights, package / "weights" / weights.name)


class Wheel(bdist_wheel):
    """A wheel with the engine is of this platform, and of any Python 3: ctypes needs no ABI of Python's."""

    def finalize_options(self) -> None:
        super().finalize_options()
        if engine():
            self.root_is_pure = False

    def get_tag(self) -> tuple[str, str, str]:
        python, abi, platform = super().get_tag()
        return ("py3", "none", platform) if engine() else (python, abi, platform)


class Binary(Distribution):
    """Puts the package where platform files go."""

    def has_ext_modules(self) -> bool:
        return engine() is not None


setup(cmdclass={"build_py": Build, "bdist_wheel": Wheel}, distclass=Binary)
