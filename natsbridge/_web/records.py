"""What the web demo knows of its streams: who asked, and how the worker's handlers fare."""

from __future__ import annotations

import itertools
import math
import secrets
import threading
from dataclasses import asdict, dataclass
from typing import Any, Dict, List, Optional

from .._demo_process import clock
from . import worker

KEPT = 60  # records, the oldest of which go first

# where a stream is read
PAGE, TAB, ELSEWHERE = "page", "tab", "elsewhere"
PLACES = (PAGE, TAB, ELSEWHERE)

# how a client goes, as its page tells it
STOPPED, TAB_CLOSED, PAGE_LEFT = "stopped", "tab-closed", "page-left"
WAYS = (STOPPED, TAB_CLOSED, PAGE_LEFT)

KILLED = "killed"  # the reason of a handler whose process was killed


@dataclass
class Record:
    """One stream. Moments are those of ``clock``."""

    key: str
    number: int
    topic: int
    question: str
    pace: str
    place: str
    claimed: bool = False
    pid: Optional[int] = None
    started_at: Optional[float] = None
    words: int = 0
    left_at: Optional[float] = None
    left_how: Optional[str] = None
    ended_at: Optional[float] = None
    reason: Optional[str] = None

    @property
    def running(self) -> bool:
        """The worker's handler is."""
        return self.started_at is not None and self.reason is None


class Records:
    """Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._records: Dict[str, Record] = {}
        self._numbers = itertools.count(1)

    def add(self, pace: object, place: object) -> Record:
        """Someone is about to ask for a stream. Raises ValueError for what is no pace and no place."""
        if pace not in worker.PACES:
            raise ValueError(f"pace is one of {', '.join(worker.PACES)}, not {pace!r}")
        if place not in PLACES:
            raise ValueError(f"place is one of {', '.join(PLACES)}, not {place!r}")
        with self._lock:
            number = next(self._numbers)
            topic = (number - 1) % len(worker.TOPICS)
            question = worker.TOPICS[topic].question
            record = Record(secrets.token_urlsafe(16), number, topic, question, str(pace), str(place))
            self._records[record.key] = record
            for key in list(self._records)[:-KEPT]:
                if not self._records[key].running:
                    del self._records[key]
            return record

    def get(self, key: str) -> Optional[Record]:
        return self._records.get(key)

    def claim(self, record: Record) -> bool:
        """Someone opens the stream; False if that has been done before."""
        with self._lock:
            first, record.claimed = not record.claimed, True
            return first

    def left(self, key: object, at: object, how: object) -> None:
        """The client says that it went at that moment, and how. Raises ValueError for what cannot be."""
        if how not in WAYS:
            raise ValueError(f"how is one of {', '.join(WAYS)}, not {how!r}")
        if isinstance(at, bool) or not isinstance(at, (int, float)) or not math.isfinite(at):
            raise ValueError(f"at is a moment in seconds, not {at!r}")
        with self._lock:
            record = self._records.get(key) if isinstance(key, str) else None
            if record is None:
                raise ValueError(f"there is no stream {key!r}")
            if record.left_at is None and record.reason not in (worker.COMPLETED, KILLED):
                record.left_at, record.left_how = min(float(at), clock()), str(how)

    def on_report(self, report: Dict[str, Any]) -> None:
        """A worker says something about a handler."""
        with self._lock:
            record = self._records.get(report["key"])
            if record is None:
                return
            if report["event"] == "started":
                record.started_at, record.pid = report["at"], report["pid"]
            elif report["event"] == "sent":
                record.words += 1
            elif record.reason is None:
                record.ended_at, record.reason = report["at"], report["reason"]

    def on_worker_lost(self, pid: int) -> None:
        """The worker process has ended, and its handlers with it."""
        with self._lock:
            for record in self._records.values():
                if record.pid == pid and record.running:
                    record.ended_at, record.reason = clock(), KILLED

    def running(self) -> int:
        """How many handlers run in the worker."""
        with self._lock:
            return sum(record.running for record in self._records.values())

    def snapshot(self) -> List[Dict[str, Any]]:
        """All streams that a handler was started for, newest first."""
        with self._lock:
            return [asdict(record) for record in reversed(list(self._records.values())) if record.started_at is not None]
