"""Bounded handler threads: started when there is work, named, gone when idle for long or closed."""

from __future__ import annotations

import logging
import threading
from collections import deque
from typing import Callable, Deque, Dict, Optional, Set

from . import _fork, _threads
from ._deadline import Deadline
from ._threads import AnyThread
from ._waiter import Condition, Lock
from .errors import ForkedError

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
        self._threads: Set[AnyThread] = set()
        self._running: Dict[int, AnyThread] = {}  # those of them that have begun, by what threading takes for their ident
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
            thread = self._reinforcement()
            if thread is None:
                self._work.notify()
                return True
        return self._start(thread) or not self._take_back(job)

    def _reinforcement(self) -> Optional[AnyThread]:
        """Inside the lock: one more thread, to be started outside; None where there are enough, or as many as may be."""
        free = len(self._threads) - self._active
        if len(self._jobs) <= free or len(self._threads) >= self.max_workers:
            return None
        self._started += 1
        thread = _threads.user_thread(lambda: self._run(thread), f"{self.name}-{self._started}")
        self._threads.add(thread)
        return thread

    def _start(self, thread: AnyThread) -> bool:
        try:
            _threads.start(thread)
        except RuntimeError:  # the interpreter is going down, or the system has no thread left
            logger.exception("%s: no thread could be started", self.name)
            with self._lock:
                self._threads.discard(thread)
            return False
        return True

    def _take_back(self, job: Job) -> bool:
        """No thread could be started for the job: True where none is left that would get to it."""
        with self._lock:
            if self._threads or job not in self._jobs:
                return False
            self._jobs.remove(job)
            return True

    def _run(self, thread: AnyThread) -> None:
        generation = _fork.generation
        with self._lock:
            self._running[threading.get_ident()] = thread
        try:
            self._work_off(thread)
        except ForkedError:  # only greenlets go on in a forked child; there is no work for them
            pass
        finally:
            with self._lock:
                self._threads.discard(thread)
                self._running.pop(threading.get_ident(), None)
                serving = generation == _fork.generation and not self._closed
                successor = self._reinforcement() if serving else None  # where a greenlet was killed while jobs wait
            if successor is not None:
                self._start(successor)

    def _work_off(self, thread: AnyThread) -> None:
        while True:
            job = self._next_job(thread)
            if job is None:
                return
            try:
                job()
            except BaseException:  # SystemExit too: sys.exit() in a handler must not take the thread with it
                logger.exception("%s: a job failed", self.name)
            finally:
                job = None  # the thread may idle long: let go of what the job held
                with self._lock:
                    self._active -= 1
                    self._rest.notify_all()

    def _next_job(self, thread: AnyThread) -> Optional[Job]:
        """Take the next job, which is active from then on; None when the thread has to end, which is not counted then."""
        idle_until = Deadline(_IDLE_SECONDS)
        with self._lock:
            while not self._jobs:
                if self._closed or idle_until.passed():
                    self._threads.discard(thread)
                    return None
                self._work.wait_slice(idle_until.remaining())
            self._active += 1
            return self._jobs.popleft()

    def is_current(self) -> bool:
        """True on one of these threads, which must not wait for their own end."""
        with self._lock:
            return threading.get_ident() in self._running

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
            me = self._running.get(threading.get_ident())
            threads = [thread for thread in self._threads if thread is not me]
        for thread in threads:
            if thread.ident is not None:
                thread.join(deadline.remaining())
        return not any(thread.is_alive() for thread in threads)
