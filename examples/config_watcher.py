"""Settings in a key-value bucket: every process that watches it has them, and hears of each change at once.

    python examples/config_watcher.py                  follows the settings until Ctrl-C
    python examples/config_watcher.py set KEY VALUE    sets one
    python examples/config_watcher.py unset KEY        removes one

Each in a terminal of its own; the server's URL comes from NATS_URL. The server needs JetStream: ``nats-server -js``.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from typing import Dict

from natsbridge import Error, KeyValue, Pool

url = os.environ.get("NATS_URL", "nats://127.0.0.1:4222")
settings: Dict[str, str] = {}


def on_change(entry: KeyValue.Entry) -> None:
    """Called for each setting there is, then for every change, on a thread of its own."""
    if entry.operation is None:
        settings[entry.key] = (entry.value or b"").decode()
        print(f"{entry.key} = {settings[entry.key]}", flush=True)
    else:
        settings.pop(entry.key, None)
        print(f"{entry.key} is not set any more", flush=True)


def follow(bucket: KeyValue) -> None:
    stopped = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stopped.set())
    with bucket.watchall(ignore_deletes=False, handler=on_change) as watcher:
        watcher.wait_initial()  # from here on, all that was set before is known
        print(f"following {len(settings)} settings", flush=True)
        stopped.wait()  # a program would do its work here, and look into ``settings``


def main() -> None:
    role, *arguments = sys.argv[1:] or ["follow"]
    if (role, len(arguments)) not in {("follow", 0), ("set", 2), ("unset", 1)}:
        sys.exit(__doc__)
    with Pool(url) as pool:
        bucket = pool.jetstream().create_key_value(bucket="settings", history=5)  # or finds the one there is
        if role == "follow":
            follow(bucket)
        elif role == "set":
            print(f"revision {bucket.put(arguments[0], arguments[1].encode())}")
        else:
            bucket.delete(arguments[0])


if __name__ == "__main__":
    try:
        main()
    except Error as error:  # no server, no JetStream, a key that cannot be one
        sys.exit(f"{type(error).__name__}: {error}")
