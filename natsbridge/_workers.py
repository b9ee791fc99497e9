"""Bounded handler threads: started when there is work, named, gone when idle for long or closed."""

from __future__ import annotations

import logging
import threading
from collections import deque
from typing import Callable, Deque, Optional, Set

from ._deadline import Deadline
from ._waiter import Condition, Lock

logger = logging.getLogger("natsbridge")

# A thread without work ends after this many seconds; the next job starts a new one.
_IDLE_SECONDS = 10.0

Job = Callable[[], object]


class Workers:
    """At most ``max_workers`` daemon threads named ``<name>-<n>``, and at most ``max_queued`` jobs waiting for one.

    Jobs start in the order of submission. All methods are thread-safe; no job runs inside a lock.
    """

    def __init__(self, name: str, max_workers: int, max_queued: Optional[int]) -> None:
        """``max_queued``: None for no limit (the caller bounds the jobs itself)."""
        self.name = name
        self.max_workers = max_workers
        self.max_queued = max_queued
        self._lock = Lock()  # guards everything below
        self._work = Condition(self._lock)  # there is a job, or the end
        self._rest = Condition(self._lock)  # a job has finished
        self._jobs: Deque[Job] = deque()
        self._threads: Set[threading.Thread] = set()
        self._active = 0
        self._started = 0
        self._closed = False

    def submit(self, job: Job) -> bool:
        """Queue a job; False when all threads are busy and the queue is full, or after ``close``."""
        with self._lock:
            if self._closed:
                return False
            if self.max_queued is not None and self._active + len(self._jobs) >= self.max_workers + self.max_queued:
                return False
            self._jobs.append(job)
            free = len(self._threads) - self._active
            if len(self._jobs) <= free or len(self._threads) >= self.max_workers:
                self._work.notify()
                return True
            self._started += 1
            thread = threading.Thread(target=self._run, name=f"{self.name}-{self._started}", daemon=True)
            self._threads.add(thread)
        try:
            thread.start()
        except RuntimeError:  # the interpreter is going down, or the system has no thread left
            logger.exception("%s: no thread could be started", self.name)
            with self._lock:
                self._threads.discard(thread)
                if not self._threads and job in self._jobs:
                    self._jobs.remove(job)
                    return False
        return True

    def _run(self) -> None:
        me = threading.current_thread()
        while True:
            with self._lock:
                job = self._next_job(me)
                if job is None:
                    return
                self._active += 1
            try:
                job()
            except BaseException:  # SystemExit too: sys.exit() in a handler must not take the thread with it
                logger.exception("%s: a job failed", self.name)
            finally:
                job = None  # the thread may idle long: let go of what the job held
                with self._lock:
                    self._active -= 1
                    self._rest.notify_all()

    def _next_job(self, me: threading.Thread) -> Optional[Job]:
        idle_until = Deadline(_IDLE_SECONDS)
        while not self._jobs:
            if self._closed or idle_until.passed():
                self._threads.discard(me)
                return None
            self._work.wait_slice(idle_until.remaining())
        return self._jobs.popleft()

    def is_current(self) -> bool:
        """True on one of these threads, which must not wait for their own end."""
        with self._lock:
            return threading.current_thread() in self._threads

    def counts(self) -> tuple[int, int, int]:
        """Threads alive, jobs running, jobs queued."""
        with self._lock:
            return len(self._threads), self._active, len(self._jobs)

    def wait_idle(self, deadline: Deadline) -> bool:
        """Wait until no job runs or waits (but for the calling one); False if that took until the deadline."""
        own = 1 if self.is_current() else 0
        with self._lock:
            while self._jobs or self._active > own:
                if deadline.passed():
                    return False
                self._rest.wait_slice(deadline.remaining())
        return True

    def close(self, deadline: Deadline) -> bool:
        """Drop queued jobs, take no more, and wait for the running ones; False if one still runs at the deadline."""
        with self._lock:
            self._closed = True
            self._jobs.clear()
            self._work.notify_all()
            self._rest.notify_all()
            threads = list(self._threads)
        for thread in threads:
            if thread is not threading.current_thread() and thread.ident is not None:
                thread.join(deadline.remaining())
        return not any(thread.is_alive() for thread in threads if thread is not threading.current_thread())
