"""A queue of jobs that survives crashes of workers and servers: each job is done, or tried again, or put aside.

    python examples/job_queue.py work           does jobs until Ctrl-C; start as many as there is work for
    python examples/job_queue.py add JOB...     adds jobs; "flaky-..." fails at first, "broken-..." always
    python examples/job_queue.py dead           shows the jobs that were put aside

Each in a terminal of its own; the server's URL comes from NATS_URL. The server needs JetStream: ``nats-server -js``.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from typing import Callable

from nats.js.api import ConsumerConfig, RetentionPolicy

from natsbridge import Error, JetStream, JetStreamMessage, Pool

url = os.environ.get("NATS_URL", "nats://127.0.0.1:4222")

TRIES = 3
PAUSE = 0.2  # seconds before a job that failed is tried again; doubled each time
ACK_WAIT = 30.0  # seconds after which a job whose worker says nothing is another worker's


def prepare(js: JetStream) -> None:
    """Create what is not there yet. Streams are kept on disk."""
    js.add_stream(name="JOBS", subjects=["jobs.todo"], retention=RetentionPolicy.WORK_QUEUE)
    js.add_stream(name="DEAD_JOBS", subjects=["jobs.dead"])


def say(line: str) -> None:
    print(f"{line}\n", end="", flush=True)  # in one piece: handlers print at the same time


def do(job: str, attempt: int) -> None:
    """What the jobs are about."""
    if job.startswith("broken") or (job.startswith("flaky") and attempt == 1):
        raise ValueError("this did not work out")


def worker(js: JetStream) -> Callable[[JetStreamMessage], None]:
    def handle(message: JetStreamMessage) -> None:
        job, attempt = message.data.decode(), message.metadata.num_delivered
        try:
            if attempt > TRIES:  # whoever had it last was killed before it could say anything
                raise RuntimeError("it took its worker with it")
            do(job, attempt)
        except Exception as error:
            if attempt < TRIES:
                say(f"{job}: try {attempt} failed")
                message.nak(delay=PAUSE * 2 ** (attempt - 1))
                return
            # First stored there, then taken from here: a crash in between leaves it in both, never in none. With an id
            # it is stored once even so.
            headers = {"Error": str(error), "Nats-Msg-Id": f"{message.metadata.sequence.stream}"}
            js.publish("jobs.dead", message.data, headers=headers)
            message.term("put aside")
            say(f"{job}: put aside")
        else:
            message.ack_sync()  # returns when the server has taken it off the queue
            say(f"{job}: done")

    return handle


def work(js: JetStream) -> None:
    stopped = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stopped.set())
    config = ConsumerConfig(ack_wait=ACK_WAIT, max_ack_pending=1000)
    with js.pull_subscribe("jobs.todo", durable="workers", config=config) as jobs:
        consuming = jobs.consume(worker(js), max_workers=4, manual_ack=True)
        say("working")
        stopped.wait()
        consuming.drain()  # lets the jobs finish that are under way; the others stay in the queue


def add(js: JetStream, *jobs: str) -> None:
    js.publish_many(("jobs.todo", job.encode()) for job in jobs)  # returns when all are stored
    print(f"added {len(jobs)}")


def dead(js: JetStream) -> None:
    consumer = js.ordered_consumer("DEAD_JOBS")
    for _ in range(consumer.initial_pending):
        message = consumer.next_msg(timeout=5)
        print(f"{message.data.decode()}: {(message.headers or {})['Error']}")


def main() -> None:
    role, *arguments = sys.argv[1:] or ["?"]
    if (role, bool(arguments)) not in {("work", False), ("add", True), ("dead", False)}:
        sys.exit(__doc__)
    with Pool(url) as pool:
        js = pool.jetstream()
        prepare(js)
        if role == "work":
            work(js)
        elif role == "add":
            add(js, *arguments)
        else:
            dead(js)


if __name__ == "__main__":
    try:
        main()
    except Error as error:  # no server, no JetStream
        sys.exit(f"{type(error).__name__}: {error}")
