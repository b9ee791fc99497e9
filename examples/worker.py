"""A worker that streams the words of each request, one every fifth of a second.

    python examples/worker.py [nats://127.0.0.1:4222]

Start it, then ``requester.py`` in another terminal. Ctrl-C ends it, once the answers that are under way are complete.
"""

from __future__ import annotations

import os
import sys
import time

from natsbridge import ClientOfflineError, Error, ResponseSender, StreamRequest, Subscriber

url = sys.argv[1] if len(sys.argv) > 1 else os.environ.get("NATS_URL", "nats://127.0.0.1:4222")
subscriber = Subscriber(url)


@subscriber.stream("long.process", queue="workers")
def tell(request: StreamRequest, sender: ResponseSender) -> None:
    try:
        for word in request.data.split():
            sender.send(word)  # raises ClientOfflineError when nobody listens any more
            time.sleep(0.2)
    except ClientOfflineError as gone:  # only to show it: a handler need not catch this
        print(f"stopped: {gone.reason}", flush=True)
        raise
    print("told everything", flush=True)


if __name__ == "__main__":
    try:
        subscriber.start()  # run() would do it too, but then "serving" could not be printed
        print("serving", flush=True)
        subscriber.run()  # until SIGINT or SIGTERM
    except Error as error:  # no server
        sys.exit(f"{type(error).__name__}: {error}")
