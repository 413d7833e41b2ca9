# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from support import Programs


@pytest.fixture
def programs(tmp_path: Path) -> Iterator[Programs]:
    """The built programs, where TRACKMILL_BROKER, _WORKER and _CLI say they are."""
    out = Programs(tmp_path)
    if out.missing:
        pytest.skip(
            f"no program {', '.join(out.missing)}: set TRACKMILL_BROKER, TRACKMILL_WORKER, TRACKMILL_CLI"
        )
    try:
        yield out
    finally:
        out.stop()
