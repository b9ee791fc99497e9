"""The original system's worker: it listens for clients that went offline, and streams until its client is one of them."""

from __future__ import annotations

import itertools
import time

from lines import options, orders, tell

from natsbridge import ClientOfflineError, ResponseSender, StreamRequest, Subscriber


def handler(request: StreamRequest, sender: ResponseSender) -> None:
    sent = 0
    try:
        for sent in itertools.count():
            sender.send(request.data + b" %d" % sent)
            time.sleep(0.005)
    except ClientOfflineError as error:
        tell("ended", connect_id=request.connect_id, reason=error.reason, sent=sent)
        raise


def main() -> None:
    given = options()
    subject = given["subject"]
    with Subscriber(given["url"]) as subscriber:
        subscriber.start_client_offline_listener()
        subscriber.stream_queue_subscribe_handler(subject, "workers", handler)
        tell("ready")
        for _ in orders():
            pass


if __name__ == "__main__":
    main()
