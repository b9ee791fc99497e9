"""pytest fixtures with real servers, for the tests of programs that use natsbridge.

Put ``pytest_plugins = ["natsbridge.testing"]`` into the top-level ``conftest.py``. The fixtures:

``nats_server``: one server for the whole test run (one for each worker of pytest-xdist), with JetStream.
``nats_server_options``: the arguments of ``nats_server``; override it, with scope ``session``, to change them.
``make_nats_server``: call it for further servers, which end with the test: for restarts, kills, other options, or a
    JetStream that no other test has written to.
``nats_pool``: an open ``Pool`` on ``nats_server``, closed after the test.

Without a nats-server executable the tests that need one fail, with the command that installs it; none is skipped.
"""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING, Iterator, Optional, Sequence, TypedDict, Union

try:
    import pytest
except ImportError as exc:
    raise ImportError("natsbridge.testing needs pytest; install it with: pip install 'natsbridge[test]'") from exc

from .server import EmbeddedServer, StrPath

if TYPE_CHECKING:
    from typing import Protocol

    from typing_extensions import Unpack

    from .pool import Pool

    class ServerFactory(Protocol):
        """What ``make_nats_server`` gives: takes the arguments of ``EmbeddedServer``, returns a running one."""

        def __call__(self, **options: Unpack[ServerOptions]) -> EmbeddedServer: ...


__all__ = ["ServerOptions", "make_nats_server", "nats_pool", "nats_server", "nats_server_options"]


class ServerOptions(TypedDict, total=False):
    """The arguments of ``EmbeddedServer``."""

    config: Optional[StrPath]
    config_text: Optional[str]
    jetstream: bool
    store_dir: Optional[StrPath]
    host: str
    port: Optional[int]
    http: Union[bool, int]
    args: Sequence[str]
    binary: Optional[StrPath]
    start_timeout: float


@pytest.fixture(scope="session")
def nats_server_options() -> ServerOptions:
    """The arguments of ``nats_server``: JetStream on. Override this fixture to change them."""
    return {"jetstream": True}


@pytest.fixture(scope="session")
def nats_server(nats_server_options: ServerOptions) -> Iterator[EmbeddedServer]:
    """A running server that all tests share: leave it running, and choose subjects and streams of your own."""
    with EmbeddedServer(**nats_server_options) as server:
        yield server


@pytest.fixture
def make_nats_server() -> Iterator[ServerFactory]:
    """A function that starts a server with the arguments of ``EmbeddedServer``; all of them end with the test."""
    with ExitStack() as servers:

        def make(**options: Unpack[ServerOptions]) -> EmbeddedServer:
            return servers.enter_context(EmbeddedServer(**options))

        yield make


@pytest.fixture
def nats_pool(nats_server: EmbeddedServer) -> Iterator[Pool]:
    """An open pool on ``nats_server``, for this test alone."""
    from .pool import Pool

    with Pool(nats_server.url) as pool:
        yield pool
