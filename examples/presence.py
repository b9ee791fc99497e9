"""Clients with ids: any process can stop the work that is done for one of them.

    python examples/presence.py worker        serves endless answers
    python examples/presence.py gateway ID    asks for one, on behalf of the client ID
    python examples/presence.py leave ID      says that the client ID has left: the worker stops, and so does the gateway

Each in a terminal of its own; the server's URL comes from NATS_URL.
"""

from __future__ import annotations

import itertools
import os
import sys
import time

import natsbridge
from natsbridge import ClientOfflineError, Error, Message, Pool, ResponseSender, StreamRequest, Subscriber

url = os.environ.get("NATS_URL", "nats://127.0.0.1:4222")


def count(request: StreamRequest, sender: ResponseSender) -> None:
    try:
        for number in itertools.count(1):
            sender.send(b"%d" % number)
            time.sleep(0.1)
    except ClientOfflineError as gone:
        print(f"stopped counting for {request.connect_id}: {gone.reason}", flush=True)
        raise


def worker() -> None:
    subscriber = Subscriber(url)
    subscriber.stream_queue_subscribe_handler("count", "workers", count)
    subscriber.start_client_offline_listener()  # the first of the three lines
    print("serving", flush=True)
    subscriber.run()


def gateway(connect_id: str) -> None:
    with Pool(url) as pool, pool.client(connect_id):
        try:
            pool.stream_request_with_client("count", b"", connect_id, show)  # the second
        except ClientOfflineError as gone:
            print(f"{gone.connect_id} has left", flush=True)


def show(message: Message) -> bool:
    print(message.data.decode(), flush=True)
    return True  # False would stop the stream


def leave(connect_id: str) -> None:
    with Pool(url):
        natsbridge.mark_client_offline(connect_id)  # the third: announced through every open pool


def main() -> None:
    role, *ids = sys.argv[1:] or ["?"]
    if role == "worker" and not ids:
        worker()
    elif role == "gateway" and len(ids) == 1:
        gateway(*ids)
    elif role == "leave" and len(ids) == 1:
        leave(*ids)
    else:
        sys.exit(__doc__)


if __name__ == "__main__":
    try:
        main()
    except Error as error:  # no server, nobody counts
        sys.exit(f"{type(error).__name__}: {error}")
