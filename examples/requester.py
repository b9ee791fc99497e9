"""Asks ``worker.py`` for a stream of words, and prints them as they come.

    python examples/requester.py [nats://127.0.0.1:4222 [COUNT]]

With COUNT it leaves after so many words, and the worker stops.
"""

from __future__ import annotations

import os
import sys

from natsbridge import Error, Pool

TEXT = b"the worker stops when nobody listens any more"

url = sys.argv[1] if len(sys.argv) > 1 else os.environ.get("NATS_URL", "nats://127.0.0.1:4222")
count = int(sys.argv[2]) if len(sys.argv) > 2 else None


def main() -> None:
    with Pool(url) as pool, pool.stream("long.process", TEXT, timeout=60) as stream:
        for number, word in enumerate(stream, 1):
            print(word.decode(), flush=True)
            if number == count:
                break  # leaving the "with" tells the worker


if __name__ == "__main__":
    try:
        main()
    except Error as error:  # no server, no worker, or the answer broke off
        sys.exit(f"{type(error).__name__}: {error}")
