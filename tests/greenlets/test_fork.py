"""What ``tests/test_fork.py`` asks of programs, asked of programs under gevent, in which greenlets go on in the child.

Left out: ``multiprocessing``, whose pools hang there with or without natsbridge, and threads that hammer without a pause,
since greenlets that never wait let no other run. And a child that ends at once, whose end gevent may miss.
"""

from __future__ import annotations

from typing import Any

import pytest
from procs import StartProgram
from test_fork import pytestmark as pytestmark
from test_fork import run
from test_fork import service as service
from test_fork import test_what_is_inherited_belongs_to_the_parent as test_what_is_inherited_belongs_to_the_parent

from natsbridge.server import EmbeddedServer


@pytest.mark.parametrize("way", ["four_children", "while_connecting", "never_opened", "in_a_handler"])
def test_fork(server: EmbeddedServer, start_program: StartProgram, unique: str, service: Any, way: str) -> None:
    run(start_program, server, unique, way)
