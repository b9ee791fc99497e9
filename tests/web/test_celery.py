"""Celery's forked processes use the pool of their module, each with a connection of its own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from importlib import import_module
from pathlib import Path
from typing import Any, Iterator, List

import pytest
from procs import LONG, WaitFor

from natsbridge.server import EmbeddedServer

from .orders import SUBJECT, Worker, order

pytestmark = [pytest.mark.process, pytest.mark.slow]

HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def tasks(nats_server: EmbeddedServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """The tasks as a client sees them, with a real Celery worker of two processes behind them."""
    folder = tmp_path_factory.mktemp("celery")
    env = {"NATS_URL": nats_server.url, "GATEWAY_SUBJECT": SUBJECT, "CELERY_FOLDER": str(folder)}
    others = {name: value for name, value in os.environ.items() if name != "DJANGO_SETTINGS_MODULE"}  # Celery sees that
    log = folder / "log"
    with log.open("wb") as file:
        command = ["-m", "celery", "-A", "celery_tasks", "worker", "--pool", "prefork", "--concurrency", "2", "-l", "info"]
        celery = subprocess.Popen(
            [sys.executable, *command, "--without-gossip", "--without-mingle", "--without-heartbeat"],
            cwd=str(HERE),
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            env={**others, **env, "GATEWAY_OPEN_EARLY": "1", "C_FORCE_ROOT": "1"},
            start_new_session=True,
        )
    with pytest.MonkeyPatch.context() as patch:
        for name, value in env.items():
            patch.setenv(name, value)
        patch.syspath_prepend(str(HERE))
        celery_tasks = import_module("celery_tasks")
    try:
        yield celery_tasks
    finally:
        celery_tasks.pool.close()
        celery_tasks.app.close()
        os.killpg(celery.pid, signal.SIGKILL)  # a session of its own; its own shutdown takes five seconds
        celery.wait(LONG)
        print(log.read_text())


def test_tasks_use_the_pool(tasks: Any, worker: Worker) -> None:
    orders = [order("say", chunks=[str(number), "end"]).decode() for number in range(8)]
    results: List[Any] = [tasks.read.delay(text) for text in orders]
    found = [result.get(timeout=LONG) for result in results]
    assert [chunks for _, _, chunks in found] == [[str(number), "end"] for number in range(8)]
    (parent,) = {parent for parent, _, _ in found}
    assert parent not in {pid for _, pid, _ in found}


def test_a_task_that_runs_out_of_time_stops_the_worker(tasks: Any, worker: Worker, wait_for: WaitFor) -> None:
    """Celery's signal interrupts the wait for the next chunk, and leaving the ``with`` stops the worker."""
    from celery.exceptions import SoftTimeLimitExceeded

    key = worker.key()
    result = tasks.read.apply_async([order("idle", key).decode()], soft_time_limit=1)
    with pytest.raises(SoftTimeLimitExceeded):
        result.get(timeout=LONG)
    wait_for(lambda: key in worker.ended, what="the worker to stop")
    assert worker.ended[key][0] == "cancelled"


def test_a_task_process_that_is_killed_stops_the_worker(tasks: Any, worker: Worker, wait_for: WaitFor) -> None:
    key = worker.key()
    began = time.monotonic()
    tasks.read.apply_async([order("idle", key).decode()], time_limit=1)  # Celery kills the process
    wait_for(lambda: key in worker.ended, what="the worker to stop")
    assert worker.ended[key][0] in ("no_interest", "cancelled")  # it may get as far as leaving the "with"
    assert worker.ended[key][1] - began < LONG
