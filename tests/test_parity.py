"""Whatever nats-py can do, natsbridge can do too, or ``docs/parity.md`` says why not.

nats-py is introspected: a method, property or parameter that a new version brings fails here until it has a counterpart of
the same name, or a row in the document's table for its class. Rows that nothing needs any more fail too.
"""

from __future__ import annotations

import ast
import functools
import inspect
import re
import textwrap
from pathlib import Path
from typing import Any, Dict, Iterator, List, NamedTuple, Optional, Set, Tuple

import nats.aio.client
import nats.aio.msg
import nats.aio.subscription
import nats.js.client
import nats.js.kv
import nats.js.manager
import nats.js.object_store
import nats.micro
import nats.micro.request
import nats.micro.service
import pytest

import natsbridge

DOCUMENT = Path(__file__).parents[1] / "docs" / "parity.md"

_JS = nats.js.client.JetStreamContext

# Classes of nats-py that have methods, and what stands for each here (a dotted name below ``natsbridge``).
PAIRS: List[Tuple[type, str]] = [
    (nats.aio.client.Client, "Pool"),
    (nats.aio.subscription.Subscription, "Subscription"),
    (nats.aio.msg.Msg, "JetStreamMessage"),
    (_JS, "JetStream"),
    (nats.js.manager.JetStreamManager, "JetStream"),
    (_JS.PullSubscription, "PullSubscription"),
    (_JS.PushSubscription, "PushSubscription"),
    (nats.js.kv.KeyValue, "KeyValue"),
    (nats.js.kv.KeyValue.KeyWatcher, "KeyWatcher"),
    (nats.js.object_store.ObjectStore, "ObjectStore"),
    (nats.js.object_store.ObjectStore.ObjectWatcher, "ObjectWatcher"),
    (nats.micro.service.Service, "Service"),
    (nats.micro.service.Group, "EndpointGroup"),
    (nats.micro.request.Request, "ServiceRequest"),
]

# Counterparts that are not there yet, as "JetStream.key_value", or a whole class. Empty when all is done.
COMING: Set[str] = set()


_SELF = ast.dump(ast.parse("self").body[0].value)  # type: ignore[attr-defined]


class Row(NamedTuple):
    counterpart: str
    remark: str


def tables() -> Dict[str, Dict[str, Row]]:
    """By class of nats-py: what has another name here, or none."""
    found: Dict[str, Dict[str, Row]] = {}
    table: Optional[Dict[str, Row]] = None
    for line in DOCUMENT.read_text(encoding="utf-8").splitlines():
        marker = re.fullmatch(r"<!-- parity: (\S+) -->", line)
        if marker is not None:
            assert marker.group(1) not in found, f"two tables of {marker.group(1)}"
            table = found[marker.group(1)] = {}
        elif line.startswith("| `"):
            assert table is not None, line
            theirs, ours, remark = (cell.strip() for cell in line.strip("|").split(" | "))
            assert theirs.strip("` ") not in table, f"twice: {line}"
            table[theirs.strip("` ")] = Row(ours.strip("`"), remark)
        elif line.startswith("#"):
            table = None
    return found


TABLES = tables()


def members(cls: type) -> Iterator[str]:
    """Public methods and properties, inherited ones too, and fields of data classes."""
    names: Set[str] = set()
    for base in cls.__mro__[:-1]:
        if base.__module__.startswith("nats."):
            names |= {
                name
                for name, value in vars(base).items()
                if inspect.isfunction(value)
                or isinstance(value, (property, classmethod, staticmethod, functools.cached_property))
            }
            names |= set(getattr(base, "__dataclass_fields__", ()))
    return iter(sorted(name for name in names if not name.startswith("_")))


def assigned(cls: type) -> Set[str]:
    """Attributes that the methods of a class give to its instances."""
    found: Set[str] = set()
    for base in cls.__mro__[:-1]:
        for node in ast.walk(ast.parse(textwrap.dedent(inspect.getsource(base)))):
            if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store) and ast.dump(node.value) == _SELF:
                found.add(node.attr)
    return found


def find(dotted: str) -> Any:
    """What a dotted name below ``natsbridge`` stands for; None if there is no such thing."""
    found: Any = natsbridge
    for name in dotted.split("."):
        if not hasattr(found, name):
            return True if inspect.isclass(found) and name in assigned(found) else None
        found = getattr(found, name)
    return found


def counterpart(ours: str, name: str) -> Any:
    """What takes the parameters of a method here: those of ``connect`` are the constructor's."""
    return natsbridge.Pool if name == "connect" else find(f"{ours}.{name}")


def parameters(function: Any) -> Dict[str, inspect.Parameter]:
    return {name: p for name, p in inspect.signature(function).parameters.items() if name != "self"}


def cases() -> Iterator[Any]:
    for theirs, ours in PAIRS:
        for name in members(theirs):
            marks = []
            if ours in COMING or f"{ours}.{name}" in COMING:
                marks.append(pytest.mark.xfail(strict=True, reason="it is not there yet"))
            yield pytest.param(theirs, ours, name, id=f"{theirs.__qualname__}.{name}", marks=marks)


@pytest.mark.parametrize(("theirs", "ours", "name"), list(cases()))
def test_there_is_a_counterpart(theirs: type, ours: str, name: str) -> None:
    row = TABLES.get(theirs.__qualname__, {}).get(name)
    if row is None:
        assert find(f"{ours}.{name}") is not None, (
            f"nats-py's {theirs.__qualname__}.{name} has no counterpart: add {ours}.{name}, or a row with the reason to "
            f"{DOCUMENT.name}, below <!-- parity: {theirs.__qualname__} -->"
        )
    elif row.counterpart == "–":
        assert len(row.remark) > 20, f"{name}: say why there is none"
    else:
        assert find(row.counterpart) is not None, f"{name}: there is no natsbridge.{row.counterpart}"


@pytest.mark.parametrize(("theirs", "ours", "name"), list(cases()))
def test_it_takes_the_same_parameters(theirs: type, ours: str, name: str) -> None:
    table = TABLES.get(theirs.__qualname__, {})
    native, mine = inspect.getattr_static(theirs, name, None), counterpart(ours, name)
    if ours in COMING or f"{ours}.{name}" in COMING:
        assert mine is not None
    if not inspect.isfunction(native) or not (inspect.isfunction(mine) or inspect.isclass(mine)):
        return
    if name in table and name != "connect":
        return
    taken = parameters(mine)
    if any(p.kind is p.VAR_KEYWORD for p in taken.values()):
        return
    for parameter, described in parameters(native).items():
        if described.kind is described.VAR_KEYWORD or f"{name}({parameter})" in table:
            continue
        assert parameter in taken, f"{ours}.{name} takes no {parameter!r}: add it, or a row for `{name}({parameter})`"


@pytest.mark.parametrize("theirs", list(TABLES))
def test_no_row_is_out_of_date(theirs: str) -> None:
    pairs = {cls.__qualname__: (cls, ours) for cls, ours in PAIRS}
    cls, ours = pairs[theirs]
    if ours in COMING:
        return
    there = set(members(cls))
    for key, row in TABLES[theirs].items():
        name, _, parameter = key.rstrip(")").partition("(")
        assert name in there, f"nats-py has no {theirs}.{name} any more"
        assert row.remark, f"{key}: say how it differs"
        mine = counterpart(ours, name) if parameter else find(f"{ours}.{name}")
        if not parameter:
            assert mine is None or row.counterpart == f"{ours}.{name}", (
                f"there is a {ours}.{name} now: {key} is out of date"
            )
            continue
        assert parameter in parameters(getattr(cls, name)), f"nats-py's {theirs}.{name} has no parameter {parameter!r}"
        assert parameter not in parameters(mine), f"{ours}.{name} has {parameter!r} now: the row is out of date"
        assert row.counterpart == "–" or row.counterpart in parameters(mine), f"{key}: there is no {row.counterpart!r}"


def test_every_class_of_nats_py_with_methods_is_looked_at() -> None:
    """A class that a new version brings has to be put into PAIRS, or here."""
    known = {cls for cls, _ in PAIRS} | {
        nats.aio.client.Server, nats.aio.client.ServerVersion, nats.aio.client.Srv,  # what the client tells of servers
        nats.micro.service.Endpoint, nats.micro.service.EndpointManager, nats.micro.service.GroupManager,  # bases
    }  # fmt: skip
    modules = (
        nats.aio.client, nats.aio.subscription, nats.aio.msg, nats.js.client, nats.js.manager, nats.js.kv,
        nats.js.object_store, nats.micro.service, nats.micro.request,
    )  # fmt: skip
    for module in modules:
        for name, value in vars(module).items():
            if inspect.isclass(value) and value.__module__ == module.__name__ and not name.startswith("_"):
                asynchronous = any(inspect.iscoroutinefunction(member) for member in vars(value).values())
                assert value in known or not asynchronous, f"{module.__name__}.{name} is new"


def test_the_differences_are_told_in_one_place() -> None:
    assert {cls.__qualname__ for cls, _ in PAIRS} >= set(TABLES)
    assert "Client" in TABLES
