"""Ctrl-C, a real one, in the middle of every call that blocks."""

from __future__ import annotations

import pytest
from procs import StartProgram, posix_only

from natsbridge.server import EmbeddedServer


@posix_only
@pytest.mark.process
def test_an_interrupt_ends_every_call_and_leaves_nothing(
    server: EmbeddedServer, stream: str, start_program: StartProgram
) -> None:
    child = start_program("interrupts", url=server.url, stream=stream)
    child.hear("works", results=[2, "y"], timeout=50)
    assert child.wait() == 0
    told = [facts for facts in child.facts if facts["event"] == "interrupted"]
    assert len(told) >= 22
    for facts in told:
        assert facts["outcome"] == "interrupted", facts["name"]
        assert facts["after"] == facts["before"], facts["name"]
