"""Fixtures of the tests against other programs, which need Node.js: they run where ``NATSBRIDGE_INTEROP=1`` is set.

``tox -e interop`` sets it and installs what the programs need; by hand: ``npm ci`` in ``js/``, ``pip install natsext``.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
from pathlib import Path
from typing import List

import pytest
from procs import Child, StartProgram

from natsbridge import Subscriber
from natsbridge.server import EmbeddedServer

from .peers import NATSEXT, Ask, Manner, Requester, Serve, StartPeer, StartResponder, Worker, require

JS = Path(__file__).parent / "js"
WANTED = os.environ.get("NATSBRIDGE_INTEROP") == "1"

collect_ignore_glob: List[str] = [] if WANTED else ["test_*.py"]


def pytest_report_header() -> str:
    return "interop: " + ("wanted" if WANTED else "left out unless named; set NATSBRIDGE_INTEROP=1 to run all of it")


@pytest.fixture(scope="session")
def javascript() -> bool:
    """Whether JavaScript programs can be run."""
    command = ["node", "-e", "require('@nats-io/transport-node'); require('@nats-io/services')"]
    return bool(shutil.which("node")) and subprocess.run(command, cwd=JS, capture_output=True, check=False).returncode == 0


@pytest.fixture
def start_peer(javascript: bool, start_program: StartProgram) -> StartPeer:
    """``start_peer(language, program, **options)``: run a program of ``js/`` or ``python/``, which ends with the test."""

    def start(language: str, program: str, **options: object) -> Child:
        if language == "js":
            require(javascript, "Node.js, or what js/package.json asks for,")
            return start_program("../interop/node", script=program, **options)
        return start_program(f"../interop/python/{program}", **options)

    return start


@pytest.fixture
def ask(start_peer: StartPeer, server: EmbeddedServer, unique: str) -> Ask:
    """``ask(requester, **options)``: start a program that requests ``unique`` in the requester's way."""

    def start(requester: Requester, **options: object) -> Child:
        if requester is NATSEXT:
            require(importlib.util.find_spec("natsext"), "natsext (for Python 3.10 and later)")
        given = {**requester.options, **options}
        return start_peer(requester.language, "plain_requester", url=server.url, subject=unique, **given)

    return start


@pytest.fixture
def serve(subscriber: Subscriber, unique: str) -> Serve:
    """``serve(manner)``: answer requests for ``unique`` in that manner, with natsbridge."""

    def start(manner: Manner) -> Worker:
        worker = Worker(manner)
        subscriber.stream_subscribe_handler(unique, worker)
        return worker

    return start


@pytest.fixture
def start_responder(start_peer: StartPeer, server: EmbeddedServer, unique: str) -> StartResponder:
    """``start_responder(language)``: start a program that answers requests for ``unique`` as their payload asks."""

    def start(language: str) -> Child:
        child = start_peer(language, "plain_responder", url=server.url, subject=unique, name=language)
        child.hear("ready")
        return child

    return start
