"""These tests need gevent, so they run only where ``NATSBRIDGE_GREENLETS=1`` is set; ``tox -e greenlets`` sets it."""

from __future__ import annotations

import os
from typing import List

import pytest
from procs import Child, StartProgram

WANTED = os.environ.get("NATSBRIDGE_GREENLETS") == "1"

collect_ignore_glob: List[str] = [] if WANTED else ["test_*.py"]


def pytest_report_header() -> str:
    return "greenlets: " + ("wanted" if WANTED else "left out, set NATSBRIDGE_GREENLETS=1 to run them")


@pytest.fixture
def start_program(start_program: StartProgram) -> StartProgram:
    """As everywhere, but the program runs under gevent. Further option ``when``: see ``patched.py``."""

    def start(program: str, **options: object) -> Child:
        return start_program("patched", runs=program, **options)

    return start
