"""A framework's settings: upper-case names of the arguments of ``Pool``, ``Subscriber`` and ``EventStream``."""

from __future__ import annotations

import difflib
import inspect
from typing import Any, Callable, Dict, List, Mapping

from .. import Pool, Subscriber
from .._deadline import check_interval
from .sse import HEARTBEAT


def _options_of(function: Callable[..., Any]) -> List[str]:
    return [p.name for p in inspect.signature(function).parameters.values() if p.kind is p.KEYWORD_ONLY]


_POOL = ["servers", *_options_of(Pool)]
_SUBSCRIBER = [name for name in _options_of(Subscriber) if name not in _POOL]
_GATEWAY = ["heartbeat"]
NAMES = {name.upper() for name in (*_POOL, *_SUBSCRIBER, *_GATEWAY)}


class Settings:
    """Checked settings. ``pool`` is not opened; it does so on first use, in each process for itself.

    Raises ValueError for a name that there is not, and what ``Pool`` and ``Subscriber`` raise.
    """

    def __init__(self, settings: Mapping[str, Any]) -> None:
        for name in settings:
            _check_name(name)
        given = {name.lower(): value for name, value in settings.items()}
        self.pool = Pool(**_pick(given, _POOL))
        self.heartbeat = check_interval(given.get("heartbeat", HEARTBEAT), "heartbeat")
        self._subscriber = _pick(given, _SUBSCRIBER)
        self.subscriber()

    def subscriber(self) -> Subscriber:
        """A new one on the pool, which serves nothing yet."""
        return Subscriber(self.pool, **self._subscriber)


def _pick(given: Dict[str, Any], names: List[str]) -> Dict[str, Any]:
    return {name: given[name] for name in names if name in given}


def _check_name(name: str) -> None:
    if name not in NAMES:
        close = difflib.get_close_matches(name.upper(), NAMES, 1)
        hint = f"did you mean {close[0]!r}?" if close else f"there are {', '.join(sorted(NAMES))}"
        raise ValueError(f"unknown setting {name!r}: {hint}")
