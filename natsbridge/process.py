"""What concerns all pools of a process: the marks of the process-wide registry, and the end of the interpreter."""

from __future__ import annotations

import atexit
import logging
import weakref
from typing import Dict, List, Protocol

from .options import check_connect_id
from .registry import OnlineRegistry, online_clients

logger = logging.getLogger("natsbridge")

_EXIT_TIMEOUT = 2.0


class OpenPool(Protocol):
    """A pool, as far as this module sees it."""

    registry: OnlineRegistry

    def announce(self, connect_id: str, *, online: bool) -> None: ...
    def close_at_exit(self, timeout: float) -> None: ...


# By id; single dict operations only, so that any thread may look while others open and close.
_open_pools: Dict[int, weakref.ref[OpenPool]] = {}


def opened(pool: OpenPool) -> None:
    """Count the pool among the open ones, until ``closed``, or until it is collected."""
    key = id(pool)
    _open_pools[key] = weakref.ref(pool, lambda _: _open_pools.pop(key, None))


def closed(pool: OpenPool) -> None:
    """The pool is open no longer; does nothing for one that never was."""
    _open_pools.pop(id(pool), None)


def _pools() -> List[OpenPool]:
    pools = [reference() for reference in list(_open_pools.values())]
    return [pool for pool in pools if pool is not None]


def mark_client_online(connect_id: str) -> None:
    """Mark the client online in the process-wide registry, and announce it through every open pool that uses it.

    Raises TypeError or ValueError for a bad id.
    """
    online_clients.mark_online(connect_id)
    _announce(connect_id, online=True)


def mark_client_offline(connect_id: str) -> None:
    """Mark the client offline in the process-wide registry, and announce it through every open pool that uses it.

    Its streams in this process have been told when this returns; see ``Pool.mark_client_offline``. Does not wait. Raises
    TypeError or ValueError for a bad id.
    """
    online_clients.mark_offline(connect_id)
    _announce(connect_id, online=False)


def is_client_online(connect_id: str) -> bool:
    """Whether the process-wide registry holds the client to be online; False for an id never heard of."""
    return online_clients.is_online(check_connect_id(connect_id))


def _announce(connect_id: str, *, online: bool) -> None:
    for pool in _pools():
        if pool.registry is online_clients:
            pool.announce(connect_id, online=online)


@atexit.register
def _close_at_exit() -> None:
    """Answer what services took, and write out what was published last: daemon threads still run here, but not for long."""
    for pool in _pools():
        try:
            pool.close_at_exit(_EXIT_TIMEOUT)
        except Exception:
            logger.debug("closing %r at exit failed", pool, exc_info=True)
