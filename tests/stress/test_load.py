"""Many streams: at once, and one after another for long. What they do and count is in ``benchmarks``."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.stress, pytest.mark.process]

ROOT = Path(__file__).parents[2]


def run(module: str, *arguments: str) -> str:
    """What a benchmark prints; it is shown with a test that fails."""
    command = [sys.executable, "-W", "error", "-m", f"benchmarks.{module}", *arguments]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, timeout=300, check=False)
    print(done.stdout)
    assert done.returncode == 0
    return done.stdout


def test_a_thousand_streams_at_once() -> None:
    """All are served, and none takes more than 50 kB of memory beside its thread, at either end."""
    lines = [line for line in run("core", "many").splitlines() if line.startswith("| many |")]
    wanted = [line for line in lines if " ones |" in line or "memory" in line]  # how long it takes is the machine's affair
    assert len(wanted) == 4
    assert [line for line in wanted if not line.endswith("| met |")] == []


def test_thousands_of_streams_through_restarts() -> None:
    """Each is complete, or says that it is not; nothing is left of them."""
    assert run("soak").splitlines()[-1] == "flat: nothing was left"
