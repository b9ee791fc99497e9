"""A worker in the queue group "workers" with one thread and no queue; with ``busy``, that thread is taken.

Options: ``url``; ``subject``; ``busy``: to be started first, as it takes the thread with a request of its own.
"""

from __future__ import annotations

import threading

from lines import options, orders, tell

from natsbridge import Pool, ResponseSender, StreamRequest, Subscriber


def main() -> None:
    given = options()
    served = threading.Event()

    def handler(request: StreamRequest, sender: ResponseSender) -> None:
        if given["busy"]:
            served.set()
            sender.wait_offline()
        else:
            sender.send(b"served")

    with Pool(given["url"]) as pool, Subscriber(pool, max_workers=1, max_queued=0) as subscriber:
        subscriber.stream_queue_subscribe_handler(given["subject"], "workers", handler)
        if given["busy"]:
            with pool.stream(given["subject"]):
                served.wait()
                serve_orders(subscriber)
        else:
            serve_orders(subscriber)


def serve_orders(subscriber: Subscriber) -> None:
    tell("ready")
    for order in orders():
        tell("answer", ask=order["ask"], refused=subscriber.stats()[-1].refused)


if __name__ == "__main__":
    main()
