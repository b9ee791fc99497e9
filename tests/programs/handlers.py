"""A program whose handlers of consumers are at work when it ends, and which closes nothing.

Options: ``url``; ``stream``: a stream for ``<stream>.>``. Tells ``handled`` with the number of each message.
"""

from __future__ import annotations

import threading

from lines import options, tell

from natsbridge import JetStreamMessage, Pool

given = options()
stream = given["stream"]
js = Pool(given["url"]).jetstream()
started = threading.Semaphore(0)


def handler(message: JetStreamMessage) -> None:
    started.release()
    if message.data == b"endless":
        threading.Event().wait()
    tell("handled", data=message.data.decode())


js.pull_subscribe(f"{stream}.>", "pulled", stream=stream).consume(handler, max_workers=2)
js.subscribe(f"{stream}.>", cb=handler)
js.subscribe(f"{stream}.>", ordered_consumer=True, cb=handler)
for text in ("short", "endless"):
    js.publish(f"{stream}.a", text.encode())
for _ in range(6):
    started.acquire()
tell("ends")
