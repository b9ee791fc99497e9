"""A Celery application whose tasks use one pool of the module, which was used before Celery forked its processes."""

from __future__ import annotations

import os
from pathlib import Path
from typing import List, Tuple

from celery import Celery

from natsbridge import Pool

FOLDER = Path(os.environ["CELERY_FOLDER"])
SUBJECT = os.environ["GATEWAY_SUBJECT"]

for name in ("messages", "control", "results"):
    (FOLDER / name).mkdir(exist_ok=True)

app = Celery("celery_tasks", broker="filesystem://", backend=f"file://{FOLDER / 'results'}")
app.conf.update(
    broker_transport_options={
        "data_folder_in": str(FOLDER / "messages"),
        "data_folder_out": str(FOLDER / "messages"),
        "control_folder": str(FOLDER / "control"),
    },
    broker_connection_retry_on_startup=True,
    worker_hijack_root_logger=False,
)

pool = Pool(os.environ["NATS_URL"])
if os.environ.get("GATEWAY_OPEN_EARLY"):
    pool.flush()  # open in the parent process, which forks then
PARENT = os.getpid()


@app.task  # type: ignore[untyped-decorator]
def read(order: str) -> Tuple[int, int, List[str]]:
    """The chunks of a stream, and which process read them."""
    with pool.stream(SUBJECT, order.encode(), timeout=30) as stream:
        return PARENT, os.getpid(), [chunk.decode() for chunk in stream]
