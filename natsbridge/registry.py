"""Who is online: a dict and a lock.

Marks are absolute: offline means offline, whatever is under way. Only ``Pool.client`` counts, through leases.
"""

from __future__ import annotations

import os
import secrets
import time
from typing import Dict, Iterable, List, Optional, Protocol, Set, Tuple

from . import _fork, _wire
from ._deadline import check_interval
from ._waiter import Lock
from .options import check_connect_id, check_count


class Watched(Protocol):
    """An end of a stream that stops when its client goes offline."""

    connect_id: Optional[str]
    lease: Optional[str]

    def go_offline(self) -> None: ...


class OnlineRegistry:
    """Which clients are online, as far as this process knows; thread-safe, look-ups in constant time.

    ``natsbridge.online_clients`` is the one that pools and subscribers use unless they are given another. Marking here
    stops the streams of this process; to tell other processes as well, mark through a ``Pool`` or the module's functions.

    offline_seconds: how long an offline mark is remembered, so that a request already on its way is refused.
    max_offline: marks remembered at most; beyond, the oldest is forgotten.
    """

    def __init__(self, *, offline_seconds: float = 60.0, max_offline: int = 100_000) -> None:
        self._offline_seconds = check_interval(offline_seconds, "offline_seconds")
        self._max_offline = check_count(max_offline, "max_offline")
        self._lock = Lock()  # guards everything below; nothing is called inside it
        self._online: Dict[str, None] = {}
        self._offline: Dict[Tuple[str, Optional[str]], float] = {}  # (id, lease or None) to the time it is forgotten
        self._leases: Dict[str, Tuple[str, int]] = {}  # id to (token, holders)
        self._watched: Dict[str, Set[Watched]] = {}
        self._origin = secrets.token_hex(8)
        _fork.watch(self)

    def _after_fork_in_child(self) -> None:
        # Another thread may have held the lock while forking. The streams and the holders are the parent's.
        self._lock = Lock()
        self._watched = {}
        for connect_id in self._leases:
            self._online.pop(connect_id, None)
        self._leases = {}

    @property
    def origin(self) -> str:
        """Marks announcements of this registry, so that its own process does not act on them twice."""
        return f"{self._origin}-{os.getpid()}"

    # -- marks --------------------------------------------------------------------------------------------------------

    def mark_online(self, connect_id: str) -> None:
        """The client is there: forget that it ever was offline. Raises TypeError or ValueError for a bad id."""
        check_connect_id(connect_id)
        with self._lock:
            self._online[connect_id] = None
            self._offline.pop((connect_id, None), None)

    def mark_offline(self, connect_id: str) -> None:
        """The client is gone: stop every stream of it in this process, and refuse its requests for a while.

        Returns once the streams have been told; their handlers end when they next send. Raises TypeError or ValueError.
        """
        self._take_offline(check_connect_id(connect_id), None)

    def end_lease(self, connect_id: str, lease: str) -> None:
        """Stop the streams in this process that were requested under one lease; others of the id go on."""
        self._take_offline(check_connect_id(connect_id), lease)

    def forget_offline(self, connect_id: str) -> None:
        """Forget an offline mark: another process knows the client to be online. Stops and starts nothing."""
        with self._lock:
            self._offline.pop((connect_id, None), None)

    def is_online(self, connect_id: str) -> bool:
        """True only for an id that was marked online, or is held by ``Pool.client``, and not marked offline since."""
        return connect_id in self._online

    def is_offline(self, connect_id: Optional[str], lease: Optional[str] = None) -> bool:
        """Whether a request of this id (and lease) is to be refused. An id never heard of is not offline."""
        if connect_id is None or not self._offline:
            return False
        now = time.monotonic()
        with self._lock:
            marks = [self._offline.get((connect_id, None))]
            if lease is not None:
                marks.append(self._offline.get((connect_id, lease)))
        return any(until is not None and now < until for until in marks)

    def _take_offline(self, connect_id: str, lease: Optional[str]) -> None:
        now = time.monotonic()
        with self._lock:
            if lease is None:
                self._online.pop(connect_id, None)
            self._offline.pop((connect_id, lease), None)  # a renewed mark goes to the end of the order
            self._offline[connect_id, lease] = now + self._offline_seconds
            self._prune(now)
            watched = [w for w in self._watched.get(connect_id, ()) if lease is None or w.lease == lease]
        for end in watched:
            end.go_offline()

    def _prune(self, now: float) -> None:
        """Forget marks from the oldest on: those whose time is over, and those beyond the limit."""
        excess = len(self._offline) - self._max_offline
        stale: List[Tuple[str, Optional[str]]] = []
        for key, until in self._offline.items():
            if until > now and excess <= len(stale):
                break
            stale.append(key)
        for key in stale:
            del self._offline[key]

    # -- leases -------------------------------------------------------------------------------------------------------

    def open_lease(self, connect_id: str) -> str:
        """One more holder of the id in this process; returns the token that its requests carry."""
        check_connect_id(connect_id)
        with self._lock:
            token, holders = self._leases.get(connect_id, ("", 0))
            token = token or _wire.lease_token()
            self._leases[connect_id] = (token, holders + 1)
            self._online[connect_id] = None
            self._offline.pop((connect_id, None), None)
        return token

    def close_lease(self, connect_id: str) -> Optional[str]:
        """One holder less; for the last one, end the lease and return its token."""
        with self._lock:
            token, holders = self._leases.get(connect_id, ("", 0))
            if holders > 1:
                self._leases[connect_id] = (token, holders - 1)
                return None
            if not holders:
                return None  # nobody holds it: an explicit mark stays as it is
            del self._leases[connect_id]
            self._online.pop(connect_id, None)
        self.end_lease(connect_id, token)
        return token

    def lease_of(self, connect_id: Optional[str]) -> Optional[str]:
        """The token of the lease that is open on the id in this process; None without one."""
        if connect_id is None:
            return None
        with self._lock:
            held = self._leases.get(connect_id)
        return None if held is None else held[0]

    # -- streams ------------------------------------------------------------------------------------------------------

    def watch(self, end: Watched) -> None:
        """Call ``end.go_offline()`` when its client goes offline, until ``unwatch``."""
        if end.connect_id is not None:
            with self._lock:
                self._watched.setdefault(end.connect_id, set()).add(end)

    def unwatch(self, end: Watched) -> None:
        """The stream is over: forget it. Does nothing for one that is not watched."""
        if end.connect_id is not None:
            with self._lock:
                ends = self._watched.get(end.connect_id)
                if ends is not None:
                    ends.discard(end)
                    if not ends:
                        del self._watched[end.connect_id]

    # -- looking ------------------------------------------------------------------------------------------------------

    def online(self) -> List[str]:
        """A snapshot of the ids that are online, in the order in which they came."""
        with self._lock:
            return list(self._online)

    def update(self, connect_ids: Iterable[str]) -> None:
        """Mark many ids online at once."""
        checked = [check_connect_id(connect_id) for connect_id in connect_ids]
        with self._lock:
            for connect_id in checked:
                self._online[connect_id] = None
                self._offline.pop((connect_id, None), None)

    def __len__(self) -> int:
        return len(self._online)

    def __contains__(self, connect_id: object) -> bool:
        return connect_id in self._online

    def __repr__(self) -> str:
        return f"<OnlineRegistry {len(self._online)} online, {len(self._watched)} with streams>"


online_clients = OnlineRegistry()
