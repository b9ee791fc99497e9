"""What happens in a forked child: whoever holds locks, threads or sockets registers here and starts anew there.

Inherited loops and sockets are never closed in the child: closing them takes the parent's descriptors out of the epoll set
that both share. They are parked, untouched, for the life of the child.
"""

from __future__ import annotations

import os
import weakref
from typing import List, Protocol


class Forkable(Protocol):
    def _after_fork_in_child(self) -> None: ...


_forkables: weakref.WeakSet[Forkable] = weakref.WeakSet()
_parked: List[object] = []

# Differs between a process and its forks: what belongs to one process remembers it and compares.
generation = 0


def watch(thing: Forkable) -> None:
    """Call ``thing._after_fork_in_child()`` in every child forked while it lives."""
    _forkables.add(thing)


def park(thing: object) -> None:
    """Keep an inherited object alive and untouched until this process ends."""
    _parked.append(thing)


def _after_fork_in_child() -> None:
    global generation
    generation += 1
    for thing in list(_forkables):
        thing._after_fork_in_child()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
