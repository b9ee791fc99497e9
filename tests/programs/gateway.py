"""A gateway: it requests streams and marks clients, as it is ordered.

Options: ``url``; ``pool``: arguments of ``Pool``; ``listen``: also hear of clients that went offline elsewhere.
"""

from __future__ import annotations

import threading
from contextlib import ExitStack
from typing import Dict

from lines import Facts, options, orders, tell

import natsbridge
from natsbridge import Error, Pool, ResponseStream, Subscriber


class Gateway:
    def __init__(self, given: Facts) -> None:
        self.pool = Pool(given["url"], **given.get("pool", {})).open()
        self.hold: Dict[str, threading.Event] = {}
        self.clients: Dict[str, ExitStack] = {}
        self.subscriber = Subscriber(self.pool)
        if given.get("listen"):
            self.subscriber.start_client_offline_listener()

    def stream(self, order: Facts) -> None:
        """Read a stream in a thread of its own; with ``pause``, hold after so many chunks until it is released."""
        key = order["key"]
        self.hold[key] = threading.Event()
        stream = self.pool.stream(
            order["subject"], key.encode(), connect_id=order.get("connect_id"), **order.get("options", {})
        )
        threading.Thread(target=self._read, args=(order, stream), daemon=True).start()

    def _read(self, order: Facts, stream: ResponseStream) -> None:
        key = order["key"]
        pause = order.get("pause")
        count, complete, error = 0, True, ""
        try:
            for chunk in stream:
                complete = complete and chunk.startswith(b"%d" % count)
                count += 1
                if count == 1:
                    tell("first", key=key)
                if count == pause:
                    tell("paused", key=key)
                    self.hold[key].wait()
        except Error as caught:
            error = type(caught).__name__
        tell("over", key=key, count=count, complete=complete, error=error, reason=stream.end_reason)

    def obey(self, order: Facts) -> Facts:
        do = order["do"]
        if do == "stream":
            self.stream(order)
        elif do == "release":
            self.hold[order["key"]].set()
        elif do == "offline":
            natsbridge.mark_client_offline(order["connect_id"])
        elif do == "online":
            natsbridge.mark_client_online(order["connect_id"])
        elif do == "enter":
            stack = self.clients[order["connect_id"]] = ExitStack()
            stack.enter_context(self.pool.client(order["connect_id"]))
        elif do == "leave":
            self.clients.pop(order["connect_id"]).close()
        elif do != "look":
            raise ValueError(f"unknown order {do!r}")
        return {"connected": self.pool.stats().connected, "streams": self.pool.stats().streams}


def main() -> None:
    gateway = Gateway(options())
    tell("ready")
    for order in orders():
        tell("answer", ask=order.get("ask"), **gateway.obey(order))


if __name__ == "__main__":
    main()
