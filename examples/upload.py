"""Files in an object store, with a progress bar; of any size, since they are never in memory as a whole.

    python examples/upload.py put FILE [NAME]    stores a file
    python examples/upload.py get NAME FILE      fetches one
    python examples/upload.py list               lists what is there

Needs ``pip install 'natsbridge[demo]'`` for the progress bar. The server's URL comes from NATS_URL; it needs JetStream:
``nats-server -js``.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Callable, Optional

from natsbridge import Error, ObjectStore, Pool

try:
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn
except ImportError:
    sys.exit("The progress bar needs rich: pip install 'natsbridge[demo]'")

url = os.environ.get("NATS_URL", "nats://127.0.0.1:4222")


def with_bar(title: str, transfer: Callable[[Callable[[int, Optional[int]], None]], object]) -> None:
    """Run ``transfer(progress)`` below a bar that its progress moves."""
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns) as bar:
        task = bar.add_task(title, total=None)
        transfer(lambda done, total: bar.update(task, completed=done, total=total))


def put(store: ObjectStore, path: Path, name: str) -> None:
    with_bar(name, lambda progress: store.put(name, path, progress=progress))
    print(f"stored {name}, {store.get_info(name).size} bytes")


def get(store: ObjectStore, name: str, path: Path) -> None:
    # The file is written only when all has come and its digest is right.
    with_bar(name, lambda progress: store.get(name, path, progress=progress))
    print(f"fetched {name} into {path}")


def main() -> None:
    role, *arguments = sys.argv[1:] or ["?"]
    if (role, len(arguments)) not in {("put", 1), ("put", 2), ("get", 2), ("list", 0)}:
        sys.exit(__doc__)
    with Pool(url) as pool:
        store = pool.jetstream().create_object_store("files")  # or finds the one there is
        if role == "put":
            path = Path(arguments[0])
            put(store, path, arguments[1] if len(arguments) == 2 else path.name)
        elif role == "get":
            get(store, arguments[0], Path(arguments[1]))
        else:
            for info in store.list(ignore_deletes=True):
                print(f"{info.size:>12} {info.name}")


if __name__ == "__main__":
    try:
        main()
    except (Error, OSError) as error:  # no server, no such object, no such file
        sys.exit(f"{type(error).__name__}: {error}")
