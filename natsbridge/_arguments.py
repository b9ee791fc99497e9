"""Arguments for nats-py's methods, checked by its own annotations: it takes anything, and fails somewhere later.

With ``add_consumer(ack_wait="soon")``, for one, it fills memory with a billion copies of the word first.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
from typing import Any, Callable, Dict, List, NamedTuple, Optional, Tuple

from nats.js import api

_KINDS: Dict[str, Tuple[type, ...]] = {"str": (str,), "int": (int,), "float": (float, int)}


class _Check(NamedTuple):
    name: str
    kinds: Tuple[type, ...]
    optional: bool


def check_arguments(native: Callable[..., Any], args: Tuple[Any, ...], kwargs: Dict[str, Any]) -> None:
    """Check what is declared as a str, a number or a configuration of nats-py's. Raises TypeError."""
    positional, named = _checks(native)
    for value, check in zip(args, positional):
        if check is not None:
            _check(value, check)
    for name, value in kwargs.items():
        found = named.get(name)
        if found is not None:
            _check(value, found)


def _check(value: Any, check: _Check) -> None:
    name, kinds, optional = check
    if (value is None and optional) or (isinstance(value, kinds) and not (int in kinds and isinstance(value, bool))):
        return
    wanted = f"{'an' if kinds[0] is int else 'a'} {kinds[0].__name__}" + (" or None" if optional else "")
    raise TypeError(f"{name} must be {wanted}, not {value!r} ({type(value).__name__})")


@functools.lru_cache(maxsize=None)
def _checks(native: Callable[..., Any]) -> Tuple[List[Optional[_Check]], Dict[str, _Check]]:
    parameters = list(inspect.signature(native).parameters.values())[1:]
    positional = [_parse(p.name, p.annotation) for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD]
    named = {check.name: check for check in positional if check is not None}
    if any(p.kind is p.VAR_KEYWORD for p in parameters):  # they are fields of the configuration
        for check in tuple(named.values()):
            fields = dataclasses.fields(check.kinds[0]) if dataclasses.is_dataclass(check.kinds[0]) else ()
            parsed = (_parse(field.name, field.type) for field in fields)
            named.update((field.name, field) for field in parsed if field is not None)
    return positional, named


def _parse(name: str, annotation: Any) -> Optional[_Check]:
    """nats-py's annotations are strings at run time; not all of them can be evaluated, so the simple ones are read."""
    text = str(annotation)
    optional = text.startswith("Optional[")
    inner = text[len("Optional[") : -1] if optional else text
    kinds = _KINDS.get(inner)
    if kinds is None and inner.startswith("api."):
        kind = getattr(api, inner[len("api.") :], None)
        kinds = (kind,) if isinstance(kind, type) else None
    return None if kinds is None else _Check(name, kinds, optional)
