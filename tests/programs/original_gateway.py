"""The original system's gateway: it requests a stream for each client, and marks clients offline.

With ``alone`` it is also the worker.
"""

from __future__ import annotations

import threading

from lines import options, orders, tell
from original_worker import handler

import natsbridge
from natsbridge import ClientOfflineError, Message, Pool, Subscriber


def main() -> None:
    given = options()
    subject = given["subject"]
    pool = Pool(given["url"]).open()
    if given.get("alone"):
        subscriber = Subscriber(pool)
        subscriber.start_client_offline_listener()
        subscriber.stream_queue_subscribe_handler(subject, "workers", handler)

    def serve(connect_id: str) -> None:
        data = connect_id.encode()
        chunks = 0

        def response_handler(message: Message) -> bool:
            nonlocal chunks
            assert message.data == b"%s %d" % (data, chunks), message.data
            chunks += 1
            tell("chunk", connect_id=connect_id, number=chunks)
            return True

        try:
            reason = pool.stream_request_with_client(subject, data, connect_id, response_handler)
        except ClientOfflineError as error:
            tell("offline", connect_id=error.connect_id, reason=error.reason, chunks=chunks)
        else:
            tell("returned", connect_id=connect_id, reason=reason)

    tell("ready")
    for order in orders():
        connect_id = order["connect_id"]
        if order["do"] == "serve":
            natsbridge.mark_client_online(connect_id)
            threading.Thread(target=serve, args=(connect_id,)).start()
        else:
            natsbridge.mark_client_offline(connect_id)
        tell("answer", ask=order["ask"], online=natsbridge.is_client_online(connect_id))
    pool.close()


if __name__ == "__main__":
    main()
