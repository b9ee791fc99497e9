"""The modules and what they may import: downwards only, and little from outside."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Dict, Iterator, List, Set, Tuple

import pytest

import natsbridge

PACKAGE = Path(natsbridge.__file__).parent

# The core, from the bottom: a module imports from layers below its own only.
LAYERS: List[Set[str]] = [
    {"_arguments", "_deadline", "_fork", "_pace", "_threads", "_types", "_wire", "errors"},
    {"_command", "_outgoing", "_waiter", "_window", "message", "options"},
    {"_budget", "_incoming", "_mailbox", "_receiver", "_relay", "_workers", "registry"},
    {"_loop"},
    {"_files", "_outbox", "_transport"},
    {"_client"},
    {"_connecting"},
    {"_connection"},
    {"_link"},
    {"_asking", "_runtime", "_sink", "_source", "presence", "process", "replies", "subscription"},
    {"requester", "responder"},
    {"_blocking", "_intake", "_lifecycle", "_serving", "_terms", "jsmessage"},
    {"_context", "_discovery", "_endpoint", "_handling", "_pulls", "_pushed", "_registration", "connections"},
    {"_acks", "_group", "_reading", "manager", "messaging"},
    {"publishing", "pulling", "pushing", "service", "service_client", "streaming"},
    {"ordered"},
    {"_bucket", "_objects"},
    {"_changes", "_watching"},
    {"keyvalue", "objectstore"},
    {"buckets"},
    {"jetstream"},
    {"pool"},
    {"subscriber"},
]
CORE: Dict[str, int] = {module: layer for layer, modules in enumerate(LAYERS) for module in modules}

# Who may know the client library below, and who the event loop.
NATS_CLIENT = {"_client", "_connecting", "_connection", "_transport"}
NATS_FACADES = {  # they reuse what it builds on its client
    "_acks", "_arguments", "_blocking", "_bucket", "_changes", "_context", "_objects", "_pushed", "buckets", "jetstream",
    "keyvalue", "manager", "objectstore", "ordered", "publishing", "pulling", "pushing",
}  # fmt: skip
NATS = {  # all the others know what can be had without the client: errors, messages, a service's figures
    *NATS_CLIENT,
    *NATS_FACADES,
    "errors", "_discovery", "_endpoint", "_group", "_handling", "_intake", "_link", "_pulls", "_registration", "_watching",
    "_asking", "_sink", "_source", "jsmessage", "presence", "replies", "service", "service_client", "subscription",
    "_terms",
}  # fmt: skip
ASYNCIO = {
    "_loop",
    "_connecting",
    "_connection",
    "_receiver",
    "_transport",
    "_discovery",
    "_outbox",
    "_link",
    "_runtime",
    "_sink",
    "_source",
}
THREADING = {"_threads", "_waiter", "_workers", "_serving", "service"}

# Tools around the core: they may use all of it, and nothing of it may use them.
TOOLS: Dict[str, Set[str]] = {
    "server": {"_fork", "_supervisor", "errors"},
    "_supervisor": set(),
    "testing": {"pool", "server"},
}


# The gateways: public names of the core, besides these helpers.
CONTRIB = {"_deadline", "_fork", "_loop", "_types", "_waiter", "options"}


def tree_of(module: str) -> ast.Module:
    return ast.parse((PACKAGE / f"{module}.py").read_text(encoding="utf-8"))


def is_type_checking(node: ast.AST) -> bool:
    test = node.test if isinstance(node, ast.If) else None
    return isinstance(test, ast.Name) and test.id == "TYPE_CHECKING"


def nodes(tree: ast.AST) -> Iterator[ast.AST]:
    """All that runs: not what only type checkers look at."""
    for node in ast.iter_child_nodes(tree):
        if is_type_checking(node):
            assert isinstance(node, ast.If)
            for other in node.orelse:
                yield from nodes(other)
            continue
        yield node
        yield from nodes(node)


def imports(module: str) -> Iterator[Tuple[str, bool]]:
    """Dotted names that a module imports, and whether they are natsbridge's own."""
    for node in nodes(tree_of(module)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, False
        elif isinstance(node, ast.ImportFrom):
            if node.level == 0:
                yield node.module or "", False
            elif node.module:
                yield node.module, True
            else:
                for alias in node.names:
                    yield alias.name, True


def own(module: str) -> Set[str]:
    return {name.split(".")[0] for name, inside in imports(module) if inside}


def outside(module: str) -> Set[str]:
    return {name for name, inside in imports(module) if not inside}


def test_every_module_has_its_layer() -> None:
    """A module that nobody has placed is a decision that nobody has made; what is private belongs to the core."""
    found = {path.stem for path in PACKAGE.glob("*.py")} - {"__init__", "__main__"}
    for module in CORE:
        assert module in found, f"{module} is gone: take it out of LAYERS"
    used_by_the_core = {name for module in CORE for name in own(module)}
    assert used_by_the_core <= set(CORE), "give these a layer too"


@pytest.mark.parametrize("module", sorted(CORE))
def test_imports_point_down(module: str) -> None:
    for name in own(module):
        assert name in CORE, f"{module} imports {name}, which is not of the core"
        assert CORE[name] < CORE[module], f"{module} (layer {CORE[module]}) imports {name} (layer {CORE[name]})"


@pytest.mark.parametrize("module", sorted(TOOLS))
def test_the_tools_use_little_of_the_core(module: str) -> None:
    assert own(module) <= TOOLS[module]


@pytest.mark.parametrize(
    ("package", "allowed"),
    [("nats", NATS), ("asyncio", ASYNCIO), ("threading", THREADING)],
    ids=["nats", "asyncio", "threading"],
)
def test_who_knows_what(package: str, allowed: Set[str]) -> None:
    using = {module for module in CORE if any(name.split(".")[0] == package for name in outside(module))}
    assert using == allowed


def test_three_modules_know_the_client_of_nats_py() -> None:
    small = {"nats.errors", "nats.js.errors", "nats.aio.msg", "nats.micro.request", "nats.micro.service"}
    using = {m for m in CORE if any(name.split(".")[0] == "nats" and name not in small for name in outside(m))}
    assert using == NATS_CLIENT | NATS_FACADES
    assert not {m for m in NATS_FACADES if "nats.aio.client" in outside(m)}


@pytest.mark.parametrize("module", sorted(CORE))
def test_the_core_needs_nothing_but_the_standard_library_and_nats(module: str) -> None:
    standard = {
        "__future__", "_socket", "_thread", "asyncio", "atexit", "base64", "binascii", "collections", "concurrent",
        "contextlib", "copy", "dataclasses", "datetime", "email", "enum", "functools", "hashlib", "inspect", "io",
        "itertools", "json", "logging", "math", "operator", "os", "pathlib", "random", "re", "secrets", "signal",
        "socket", "ssl", "struct", "sys", "threading", "time", "types", "typing", "urllib", "weakref",
    }  # fmt: skip
    optional = {"uvloop"} if module == "_loop" else {"gevent"} if module == "_threads" else set()
    roots = {name.split(".")[0] for name in outside(module)}
    assert roots <= standard | {"nats"} | optional


def test_nobody_asks_asyncio_which_loop_is_running_to_tell_threads_apart() -> None:
    """Under gevent every thread seems to run one: the loop thread is known by its ident."""
    for module in CORE:
        for node in ast.walk(tree_of(module)):
            if isinstance(node, ast.Attribute):
                assert node.attr not in ("get_running_loop", "_get_running_loop"), module


def test_nothing_is_printed() -> None:
    for module in CORE:
        for node in ast.walk(tree_of(module)):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                assert node.func.id != "print", module


@pytest.mark.parametrize("path", sorted((PACKAGE / "contrib").rglob("*.py")), ids=lambda path: path.stem)
def test_gateways_use_public_names(path: Path) -> None:
    """What they are made of, any user could use; and no framework is imported but by the modules for it."""
    depth = len(path.relative_to(PACKAGE).parts)
    for node in nodes(ast.parse(path.read_text(encoding="utf-8"))):
        if not isinstance(node, ast.ImportFrom):
            continue
        if node.level == depth and node.module:
            assert node.module in CONTRIB, f"{path.name} imports {node.module}"
        root = (node.module or "").split(".")[0]
        if not node.level and root in ("django", "flask", "werkzeug"):
            assert "django" in path.parts or path.stem == "flask", f"{path.name} imports {root}"
