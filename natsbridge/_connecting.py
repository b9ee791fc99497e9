"""Connecting a nats-py client, each server once, and letting go of one. Everything runs on the loop thread."""

from __future__ import annotations

import asyncio
import logging
import random
from typing import Any, Dict, List, Optional, Protocol, Tuple

import nats.errors
from nats.aio.client import Server

from ._client import NatsClient
from ._deadline import Deadline
from .errors import ConnectError
from .options import ConnectOptions

logger = logging.getLogger("natsbridge")

PENDING_BYTES = 512 * 1024  # nats-py's own buffer: beyond it, writing waits for the socket
CLOSE_TIMEOUT = 2.0
_CLOSE_MOMENT = 0.1
_FIRST_BACKOFF = 0.05  # seconds; doubles up to reconnect_time_wait


class Owner(Protocol):
    """Who is told what a client reports once it has been connected."""

    def on_nats_error(self, client: NatsClient, error: Exception) -> None: ...
    def on_nats_down(self, client: NatsClient) -> None: ...
    def on_nats_up(self, client: NatsClient) -> None:
        """It is connected again."""


class Connector:
    def __init__(self, options: ConnectOptions) -> None:
        self._options = options
        self._attempts = 0
        self._left: Optional[str] = None  # the server that is to be tried last

    async def connect(self, deadline: Deadline, owner: Owner) -> NatsClient:
        """A fresh client, connected. Raises ConnectError.

        Each server is tried once: nats-py alone would go on for ever, or for minutes.
        """
        client = NatsClient()
        urls = self._options.urls
        failures: List[Exception] = []
        all_failed: asyncio.Future[None] = asyncio.get_event_loop().create_future()
        connected = False

        async def on_error(error: Exception) -> None:
            if connected:
                owner.on_nats_error(client, error)
                return
            failures.append(error)
            if len(failures) >= len(urls) and not all_failed.done():
                all_failed.set_result(None)

        async def on_disconnected() -> None:
            owner.on_nats_down(client)

        async def on_reconnected() -> None:
            owner.on_nats_up(client)

        options = {"reconnect_to_server_handler": self._choose, **self._options.for_nats()}
        options["connect_timeout"] = self._options.connect_timeout / len(urls)
        connecting = asyncio.ensure_future(
            client.connect(
                error_cb=on_error,
                disconnected_cb=on_disconnected,
                reconnected_cb=on_reconnected,
                pending_size=PENDING_BYTES,
                **options,
            )
        )
        budget = deadline.at_most(self._options.connect_timeout)
        try:
            await asyncio.wait({connecting, all_failed}, timeout=budget, return_when=asyncio.FIRST_COMPLETED)
            if not connecting.done():
                raise self._error(failures, budget)
            try:
                connecting.result()
            except ImportError as error:
                raise ConnectError(f"{error}: pip install nkeys") from error
            except (OSError, nats.errors.Error) as error:
                raise self._error([*failures, error], budget) from error
        except BaseException:
            connecting.cancel()
            await asyncio.wait({connecting}, timeout=CLOSE_TIMEOUT)
            if connecting.done() and not connecting.cancelled():
                connecting.exception()  # seen: it is in the ConnectError already
            await let_go(client, CLOSE_TIMEOUT)
            raise
        connected = True
        return client

    def _error(self, failures: List[Exception], budget: float) -> ConnectError:
        names = ", ".join(self._options.redacted())
        seen: List[str] = []
        for failure in failures:
            text = f"{failure}" or type(failure).__name__
            if text not in seen:
                seen.append(text)
        answers = "; ".join(seen) if seen else f"no answer within {budget:g} s"
        return ConnectError(f"no NATS server could be reached at {names}: {answers}")

    def _choose(self, servers: List[Server], _info: Dict[str, Any]) -> Tuple[Optional[Server], float]:
        """nats-py asks which server to try next, and after how many seconds: each at once first, then backing off."""
        turn, index = divmod(self._attempts, len(servers))
        self._attempts += 1
        if self._left is not None:
            servers = sorted(servers, key=lambda server: server.uri.netloc == self._left)
        return servers[index], self._backoff(turn)

    def _backoff(self, turn: int) -> float:
        if turn == 0:
            return 0.0
        longest = min(self._options.reconnect_time_wait, _FIRST_BACKOFF * 2.0 ** min(turn - 1, 16))
        return random.uniform(0.5, 1.0) * longest

    def pause(self) -> float:
        """Seconds to wait before all servers are tried again."""
        turn = self._attempts
        self._attempts += 1
        return self._backoff(turn)

    def leave(self, server: Optional[str]) -> None:
        """``server``: its host and port, which is to be tried last."""
        self._left = server

    def restart(self) -> None:
        """Connected: what follows is another search."""
        self._attempts, self._left = 0, None


async def let_go(client: NatsClient, timeout: float) -> None:
    """Close within ``timeout`` seconds (a moment at least), and let go of the socket in any case."""
    # Of aiohttp, which lets go of its session while the socket below is still saying goodbye.
    connection = getattr(getattr(getattr(client._transport, "_ws", None), "_response", None), "connection", None)
    socket = None if connection is None else connection.transport
    try:
        await asyncio.wait_for(client.close(), max(timeout, _CLOSE_MOMENT))
    except Exception as error:
        logger.debug("closing a connection failed: %r", error)
    finally:
        # nats-py's close waits until a server that does not read has read everything.
        if client.shared is not None:
            client.shared.abort()
        if socket is not None:
            socket.abort()
