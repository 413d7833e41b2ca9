# SPDX-License-Identifier: Apache-2.0
import os
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "client" / "python" / "tests"), str(ROOT / "client" / "python" / "examples"),
                str(ROOT / "client" / "acts")]
WEIGHTS = ROOT / "weights" / "standard.safetensors"


@pytest.fixture
def programs(tmp_path):
    """The built programs, as client/python/tests has them."""
    from support import Programs
    out = Programs(tmp_path)
    assert not out.missing, f"no program {out.missing}: run these tests with ctest -R test_acts"
    try:
        yield out
    finally:
        out.stop()


@pytest.fixture
def service(programs):
    """A broker with one CPU worker."""
    broker = programs.broker()
    programs.worker(broker.workers, "--model", WEIGHTS)
    return broker


@pytest.fixture(scope="session")
def world(tmp_path_factory):
    """(folder, geometry, field) of the Generic detector."""
    import chain
    folder = str(tmp_path_factory.mktemp("detector"))
    detector, geometry, field = chain.build(folder)
    yield folder, geometry, field
    del detector


@pytest.fixture
def engine():
    """Skips where this build has no engine for Python."""
    if not Path(os.environ.get("TRACKMILL_ENGINE", "/none")).is_file():
        pytest.skip("no TRACKMILL_ENGINE: the library libtrackmill-engine.so of a build")
