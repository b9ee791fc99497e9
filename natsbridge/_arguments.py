"""Arguments for nats-py's methods, checked by its own annotations: it takes anything, and fails somewhere later.

With ``add_consumer(ack_wait="soon")``, for one, it fills memory with a billion copies of the word first.
"""

from __future__ import annotations

import dataclasses
import datetime
import functools
import inspect
from enum import Enum
from typing import Any, Callable, Dict, List, NamedTuple, Optional, Tuple

from nats.js import api

# Not bool: what nats-py looks at itself may be anything that is true, and of the rest the server says what is wrong.
_KINDS: Dict[str, Tuple[type, ...]] = {
    "str": (str,),
    "int": (int,),
    "float": (float, int),
    "Dict": (dict,),
    "List": (list, tuple),
    "datetime.datetime": (datetime.datetime, str),  # nats-py hands text on as it is
}
_INFINITE = ("timeout", "msg_ttl")  # they may be, and are checked by who knows what that means
_MOST_SECONDS = 2**63 / 10**9  # as the server counts them: in nanoseconds, in 64 bits


class _Check(NamedTuple):
    kinds: Tuple[type, ...]
    optional: bool
    items: Optional[_Check] = None  # of a list, or the values of a dict


def check_arguments(native: Callable[..., Any], args: Tuple[Any, ...], kwargs: Dict[str, Any]) -> None:
    """Check what is declared as text, a number, a list or a configuration of nats-py's. Raises TypeError, ValueError."""
    positional, named = _checks(native)
    for value, (name, check) in zip(args, positional):
        if check is not None:
            _check(value, name, check)
    for name, value in kwargs.items():
        found = named.get(name)
        if found is not None:
            _check(value, name, found)


def _check(value: Any, name: str, check: _Check) -> None:
    kinds, optional, items = check
    if value is None and optional:
        return
    fits = isinstance(value, kinds) and not isinstance(value, bool)
    if not fits:
        wanted = kinds[0].__name__ + (" or None" if optional else "")
        article = "an" if wanted[0] in "AEIOaeio" else "a"
        raise TypeError(f"{name} must be {article} {wanted}, not {value!r} ({type(value).__name__})")
    if float in kinds and not abs(value) <= _MOST_SECONDS:
        raise ValueError(f"{name} must be a finite number of seconds, at most {_MOST_SECONDS:.0f}, not {value!r}")
    if items is not None:
        for key, item in value.items() if isinstance(value, dict) else enumerate(value):
            _check(item, f"{name}[{key!r}]", items)
    elif dataclasses.is_dataclass(kinds[0]) and isinstance(value, kinds[0]):
        shown = kinds[0].__name__ if name == "config" else name
        for field, inner in _fields(kinds[0]).items():
            _check(getattr(value, field), f"{shown}.{field}", inner)


@functools.lru_cache(maxsize=None)
def _checks(native: Callable[..., Any]) -> Tuple[List[Tuple[str, Optional[_Check]]], Dict[str, _Check]]:
    parameters = list(inspect.signature(native).parameters.values())[1:]
    positional = [
        (p.name, None if p.name in _INFINITE else _parse(p.annotation))
        for p in parameters
        if p.kind is p.POSITIONAL_OR_KEYWORD
    ]
    named = {name: check for name, check in positional if check is not None}
    if any(p.kind is p.VAR_KEYWORD for p in parameters):  # they are fields of the configuration
        for check in tuple(named.values()):
            if dataclasses.is_dataclass(check.kinds[0]):
                named.update(_fields(check.kinds[0]))
    return positional, named


@functools.lru_cache(maxsize=None)
def _fields(config: type) -> Dict[str, _Check]:
    """What a configuration holds. nats-py leaves out what is None, whatever is declared, and hands dicts on as they are."""
    checks = {}
    for field in dataclasses.fields(config):
        check = _parse(field.type)
        if check is not None:
            kinds = (*check.kinds, dict) if dataclasses.is_dataclass(check.kinds[0]) else check.kinds
            required = field.default is dataclasses.MISSING and not check.optional
            checks[field.name] = check._replace(kinds=kinds, optional=not required)
    return checks


def _parse(annotation: object) -> Optional[_Check]:
    """nats-py's annotations are strings at run time; not all of them can be evaluated, so the simple ones are read."""
    text = str(annotation)
    optional = text.startswith("Optional[")
    if optional:
        text = text[len("Optional[") : -1]
    outer, _, inner = text.partition("[")
    kinds = _KINDS.get(outer)
    if kinds is not None:
        return _Check(kinds, optional, _parse(inner[:-1].rpartition(", ")[2]) if inner else None)
    kind = getattr(api, text.rpartition(".")[2], None)
    if dataclasses.is_dataclass(kind) and isinstance(kind, type):
        return _Check((kind,), optional)
    if isinstance(kind, type) and issubclass(kind, Enum):
        return _Check((kind, str), optional)  # their values are as good
    return None
