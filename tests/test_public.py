"""What is public is listed, documented and typed, and importing it does nothing."""

from __future__ import annotations

import inspect
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from typing import Any, Iterator, List, Tuple

import pytest
from procs import LONG, PACKAGE_ROOT

import natsbridge
from natsbridge import errors

MODULES = ["natsbridge", "natsbridge.errors", "natsbridge.server", "natsbridge.testing"]


def public_members(cls: type) -> Iterator[Tuple[str, Any]]:
    """Methods and properties that the class itself defines."""
    for name, value in vars(cls).items():
        if not name.startswith("_") and (
            inspect.isfunction(value) or isinstance(value, (property, classmethod, staticmethod))
        ):
            yield name, value


def test_all_is_complete() -> None:
    names = {
        name
        for name, value in vars(natsbridge).items()
        if not name.startswith("_")
        and not inspect.ismodule(value)
        and getattr(value, "__module__", "natsbridge").startswith(("natsbridge", "nats"))
    }
    assert names - {"annotations"} == set(natsbridge.__all__)


@pytest.mark.parametrize("module", MODULES)
def test_all_names_what_there_is_each_once(module: str) -> None:
    namespace = import_module(module)
    assert len(namespace.__all__) == len(set(namespace.__all__))
    for name in namespace.__all__:
        assert hasattr(namespace, name), name


def test_every_exception_is_exported() -> None:
    assert set(errors.__all__) <= set(natsbridge.__all__)


def test_the_interface_is_this() -> None:
    """Nothing comes or goes by accident."""
    assert set(natsbridge.__all__) - set(errors.__all__) == {
        "Consuming",
        "EndpointGroup",
        "JetStream",
        "JetStreamMessage",
        "Message",
        "OnlineRegistry",
        "OrderedConsumer",
        "Pool",
        "PoolStats",
        "PublishFuture",
        "PullSubscription",
        "PushSubscription",
        "RegistrationStats",
        "Replies",
        "ResponseSender",
        "ResponseStream",
        "Service",
        "ServiceClient",
        "ServiceRequest",
        "StreamRequest",
        "Subscriber",
        "Subscription",
        "is_client_online",
        "mark_client_offline",
        "mark_client_online",
        "online_clients",
    }


def documented() -> List[Tuple[str, Any]]:
    found: List[Tuple[str, Any]] = []
    for module in MODULES:
        namespace = import_module(module)
        found.append((module, namespace))
        for name in namespace.__all__:
            value = getattr(namespace, name)
            if inspect.isclass(value) and value.__module__.startswith("natsbridge"):
                found.append((f"{module}.{name}", value))
                found += [(f"{module}.{name}.{member}", attribute) for member, attribute in public_members(value)]
            elif inspect.isfunction(value):
                found.append((f"{module}.{name}", value))
    return found


# Their names say it all, and a docstring could only repeat them.
OBVIOUS = {
    "ResponseStream.connect_id",
    "ResponseStream.subject",
    "Subscription.active",
    "Subscription.pool_closes",
    "Subscription.start",
    "Subscription.end",
    "Subscriber.pool_closes",
}


@pytest.mark.parametrize(("name", "value"), documented(), ids=[name for name, _ in documented()])
def test_everything_public_is_documented(name: str, value: Any) -> None:
    if name.partition(".")[2] in OBVIOUS:
        return
    text = inspect.getdoc(value) if not isinstance(value, property) else value.__doc__
    assert text, f"{name} has no docstring"
    assert text.strip() == text.strip("\n ")
    first = text.strip().splitlines()[0]
    assert len(first) > 15
    assert not first[0].islower() or "``" in first or name.startswith("natsbridge")


@pytest.mark.parametrize(("name", "value"), documented(), ids=[name for name, _ in documented()])
def test_everything_public_is_annotated(name: str, value: Any) -> None:
    functions: List[Any] = []
    if inspect.isfunction(value):
        functions.append(value)
    elif isinstance(value, property):
        functions.append(value.fget)
    elif inspect.isclass(value) and "__init__" in vars(value) and inspect.isfunction(value.__init__):
        functions.append(value.__init__)
    for function in functions:
        signature = inspect.signature(function)
        for parameter in list(signature.parameters.values()):
            if parameter.name != "self":
                assert parameter.annotation is not inspect.Parameter.empty, f"{name}({parameter.name})"
        assert signature.return_annotation is not inspect.Signature.empty, name


def test_the_package_says_that_it_is_typed() -> None:
    assert (Path(natsbridge.__file__).parent / "py.typed").is_file()


# -- importing --------------------------------------------------------------------------------------------------------


def run(code: str) -> str:
    finished = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        capture_output=True,
        timeout=LONG,
        env={"PYTHONPATH": PACKAGE_ROOT},
        check=False,
    )
    assert finished.returncode == 0, finished.stderr.decode()
    assert finished.stderr == b""
    return finished.stdout.decode().strip()


@pytest.mark.process
def test_importing_starts_no_thread_and_opens_nothing() -> None:
    code = """
import os, threading
before = set(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else set()
import natsbridge
natsbridge.Pool("nats://127.0.0.1:1")
natsbridge.Subscriber("nats://127.0.0.1:1")
after = set(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else set()
print(threading.active_count(), len(after - before))
"""
    assert run(code) == "1 0"


@pytest.mark.process
def test_importing_imports_no_extras() -> None:
    """But uvloop, where it is installed: a fork during a later import would leave its lock held in the child."""
    code = """
import sys
import natsbridge
extras = {"flask", "django", "click", "rich", "pytest", "psutil", "hypothesis", "gevent", "nkeys",
          "natsbridge.server", "natsbridge.testing", "natsbridge.cli", "natsbridge.contrib"}
print(sorted(extras & set(sys.modules)))
"""
    assert run(code) == "[]"


@pytest.mark.process
def test_the_log_is_silent_unless_the_program_wants_it() -> None:
    code = """
import logging, natsbridge
logging.getLogger("natsbridge").error("seen by nobody")
"""
    assert run(code) == ""
