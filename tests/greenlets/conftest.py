"""These tests need gevent: without it they are left out, and ``tox -e gevent`` installs it. Their programs are patched."""

from __future__ import annotations

import importlib.util
from typing import List

import pytest
from procs import Child, StartProgram

WANTED = importlib.util.find_spec("gevent") is not None

collect_ignore_glob: List[str] = [] if WANTED else ["test_*.py"]


def pytest_report_header() -> str:
    return "greenlets: " + ("wanted" if WANTED else "left out, install gevent to run them")


@pytest.fixture
def start_program(start_program: StartProgram) -> StartProgram:
    """As everywhere, but the program runs under gevent. ``when``: what is made before that patches, see ``patched.py``."""

    def start(program: str, **options: object) -> Child:
        return start_program("patched", runs=program, **options)

    return start
