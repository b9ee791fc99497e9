"""These tests are slow, so they run only where ``NATSBRIDGE_TOPOLOGY=1`` is set; ``tox -e topology`` sets it."""

from __future__ import annotations

import os
from typing import List

WANTED = os.environ.get("NATSBRIDGE_TOPOLOGY") == "1"

collect_ignore_glob: List[str] = [] if WANTED else ["test_*.py"]


def pytest_report_header() -> str:
    return "topology: " + ("wanted" if WANTED else "left out, set NATSBRIDGE_TOPOLOGY=1 to run it")
