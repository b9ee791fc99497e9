"""A gateway: it requests streams and marks clients, as it is ordered.

Options: ``url``; ``pool``: arguments of ``Pool``; ``listen``: also hear of clients that went offline elsewhere.
"""

from __future__ import annotations

import os
import threading
import warnings
from contextlib import ExitStack
from typing import Dict, Iterator, Optional, Union

from lines import Facts, options, orders, tell

import natsbridge
from natsbridge import Error, ForkedError, Pool, ResponseStream, StreamError, Subscriber

# To fork with threads running is one of the things that it is ordered to do; Python 3.12 and later warn of it.
warnings.filterwarnings("ignore", r"This process \(pid=\d+\) is multi-threaded", DeprecationWarning)


class PlainRequest:
    """Asks as a client does that has never heard of natsbridge: an inbox, and an empty message for the end."""

    def __init__(self, pool: Pool, subject: str, key: str) -> None:
        self.end_reason: Optional[str] = None
        self._inbox = pool.subscribe(f"plain.{key}")
        pool.publish(subject, key.encode(), reply=f"plain.{key}")

    def __iter__(self) -> Iterator[bytes]:
        for message in self._inbox:
            if "Nats-Service-Error" in message.headers:
                self.end_reason = "error"
                raise StreamError(int(message.headers["Nats-Service-Error-Code"]), message.headers["Nats-Service-Error"])
            if not message.data:
                self.end_reason = "completed"
                return
            yield message.data
        self.end_reason = "cancelled"

    def cancel(self) -> None:
        self._inbox.unsubscribe()


class Gateway:
    def __init__(self, given: Facts) -> None:
        self.pool = Pool(given["url"], **given.get("pool", {})).open()
        self.hold: Dict[str, threading.Event] = {}
        self.counts: Dict[str, int] = {}  # chunks that were read
        self.streams: Dict[str, Union[ResponseStream, PlainRequest]] = {}
        self.clients: Dict[str, ExitStack] = {}
        self.subscriber = Subscriber(self.pool)
        if given.get("listen"):
            self.subscriber.start_client_offline_listener()

    def stream(self, order: Facts) -> None:
        """Read a stream in a thread of its own; with ``pause``, hold after so many chunks until it is released."""
        key, subject = order["key"], order["subject"]
        self.hold[key] = threading.Event()
        stream: Union[ResponseStream, PlainRequest]
        if order.get("plain"):
            stream = PlainRequest(self.pool, subject, key)
        else:
            stream = self.pool.stream(subject, key.encode(), connect_id=order.get("connect_id"), **order.get("options", {}))
        self.streams[key] = stream
        threading.Thread(target=self._read, args=(order, stream), daemon=True).start()

    def _read(self, order: Facts, stream: Union[ResponseStream, PlainRequest]) -> None:
        key = order["key"]
        pause = order.get("pause")
        count, complete, error, text = 0, True, "", ""
        try:
            for chunk in stream:
                complete = complete and chunk.startswith(b"%d" % count)
                count += 1
                self.counts[key] = count
                if count == 1:
                    tell("first", key=key)
                if count == pause:
                    tell("paused", key=key)
                    self.hold[key].wait()
        except Error as caught:
            error, text = type(caught).__name__, str(caught)
        self.streams.pop(key, None)
        tell("over", key=key, count=count, complete=complete, error=error, text=text, reason=stream.end_reason)

    def fork(self) -> Facts:
        """A child that meddles with what it has inherited, and ends as programs do."""
        streams = [stream for stream in self.streams.values() if isinstance(stream, ResponseStream)]
        pid = os.fork()
        if pid == 0:
            refused = 0
            for stream in streams:
                try:
                    stream.cancel()
                except ForkedError:
                    refused += 1
            self.pool.close()
            os._exit(0 if refused == len(streams) else 1)
        return {"code": os.waitpid(pid, 0)[1]}

    def obey(self, order: Facts) -> Facts:
        do = order["do"]
        if do == "stream":
            self.stream(order)
        elif do == "release":
            self.hold[order["key"]].set()
        elif do == "cancel":
            self.streams[order["key"]].cancel()
        elif do == "fork":
            return self.fork()
        elif do == "offline":
            natsbridge.mark_client_offline(order["connect_id"])
        elif do == "online":
            natsbridge.mark_client_online(order["connect_id"])
        elif do == "enter":
            stack = self.clients[order["connect_id"]] = ExitStack()
            stack.enter_context(self.pool.client(order["connect_id"]))
        elif do == "leave":
            self.clients.pop(order["connect_id"]).close()
        elif do == "request":
            self.pool.request(order["subject"], b"")
        elif do != "look":
            raise ValueError(f"unknown order {do!r}")
        stats = self.pool.stats()
        return {"connected": stats.connected, "streams": stats.streams, "counts": dict(self.counts)}


def main() -> None:
    gateway = Gateway(options())
    tell("ready")
    for order in orders():
        tell("answer", ask=order.get("ask"), **gateway.obey(order))


if __name__ == "__main__":
    main()
