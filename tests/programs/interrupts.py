"""Every call that blocks, interrupted by Ctrl-C in its middle: what each leaves behind.

Options: ``url``; ``stream``: an empty stream for ``<stream>.>``. Tells ``interrupted`` for each call, with what it left.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import threading
import time
from typing import Any, Callable, Dict, List, Set

from lines import options, tell
from nats.js.api import ConsumerConfig

import natsbridge
from natsbridge import Pool

given = options()
stream = given["stream"]
pool = Pool(given["url"], timeout=60)
pool.open()
js = pool.jetstream()
# Requests below this prefix are heard, and not answered.
deaf = pool.subscribe("deaf.>")
unanswered = pool.jetstream(prefix="deaf")
full = pool.jetstream(publish_async_max_pending=1)
full.publish_async("deaf.x", b"")

pull = js.pull_subscribe(f"{stream}.>", "pull", stream=stream)
push = js.subscribe(f"{stream}.>", durable="push")
ordered = js.ordered_consumer(stream)
consuming = js.pull_subscribe(f"{stream}.>", "handled", stream=stream).consume(print)
core = pool.subscribe("nothing")
js.publish(f"{stream}.a", b"x")
(message,) = pull.fetch()
push.next_msg(10).ack()
ordered.next_msg(10)


def first(iterable: Any) -> object:
    return next(iter(iterable))


CALLS: Dict[str, Callable[[], object]] = {
    "Pool.request": lambda: pool.request("deaf.x"),
    "Pool.request_many": lambda: list(pool.request_many("deaf.x", timeout=60)),
    "Subscription.next_msg": lambda: core.next_msg(timeout=60),
    "Subscription.__iter__": lambda: first(core),
    "JetStream.account_info": unanswered.account_info,
    "JetStream.add_consumer": lambda: unanswered.add_consumer("S", ConsumerConfig()),
    "JetStream.pull_subscribe": lambda: unanswered.pull_subscribe("x", "c", stream="S"),
    "JetStream.subscribe": lambda: unanswered.subscribe("x", stream="S"),
    "JetStream.ordered_consumer": lambda: unanswered.ordered_consumer("S"),
    "JetStream.publish": lambda: js.publish("deaf.x", b""),
    "JetStream.publish_async": lambda: full.publish_async("deaf.x", b""),
    "JetStream.publish_async_completed": full.publish_async_completed,
    "JetStream.publish_many": lambda: js.publish_many([("deaf.x", b"")]),
    "PublishFuture.result": lambda: js.publish_async("deaf.x", b"").result(),
    "PullSubscription.fetch": lambda: pull.fetch(timeout=60),
    "PullSubscription.fetch many": lambda: pull.fetch(10, timeout=60, heartbeat=20),
    "PullSubscription.next_msg": lambda: pull.next_msg(timeout=60),
    "PullSubscription.__iter__": lambda: first(pull),
    "PushSubscription.next_msg": lambda: push.next_msg(timeout=60),
    "PushSubscription.__iter__": lambda: first(push),
    "OrderedConsumer.next_msg": lambda: ordered.next_msg(timeout=60),
    "Consuming.wait": lambda: consuming.wait(60),
}


def left() -> Dict[str, Any]:
    """What there is that a call could leave behind."""
    assert pool._runtime is not None
    loop = pool._runtime.loop._loop
    assert loop is not None
    tasks: Set[Any] = asyncio.all_tasks(loop)
    return {
        "tasks": len(tasks),
        "subscriptions": pool.stats().subscriptions,
        "ends": len(pool._link()._ends) - bool(js.publish_async_pending()),
        "threads": sorted(thread.name for thread in threading.enumerate()),
        "consumers": sorted(str(info.name) for info in js.consumers_info(stream)),
        "requests": js.consumer_info(stream, "pull").num_waiting,
    }


def settled(before: Dict[str, Any]) -> Dict[str, Any]:
    """What is left once everything had time to end."""
    deadline = time.monotonic() + 5.0
    while True:
        now = left()
        if now == before or time.monotonic() > deadline:
            return now
        time.sleep(0.01)


def interrupt_once_it_waits() -> None:
    """A real SIGINT, once the main thread stands still inside a wait."""
    main_thread = threading.main_thread().ident
    assert main_thread is not None

    def watch() -> None:
        before = None
        while True:
            frame = sys._current_frames()[main_thread]
            now = (id(frame), frame.f_lasti)
            if now == before and frame.f_code.co_filename.endswith(("threading.py", "_waiter.py")):
                os.kill(os.getpid(), signal.SIGINT)
                return
            before = now
            time.sleep(0.01)

    threading.Thread(target=watch, name="watch", daemon=True).start()


def interrupt(name: str, call: Callable[[], object]) -> None:
    pool.flush()  # behind what the call before may still be withdrawing
    before = left()
    try:
        interrupt_once_it_waits()
        call()
        outcome = "returned"
        time.sleep(5)
    except KeyboardInterrupt:
        outcome = "interrupted"
    except natsbridge.Error as error:
        outcome = repr(error)
    tell("interrupted", name=name, outcome=outcome, before=before, after=settled(before))


for name, call in CALLS.items():
    interrupt(name, call)
message.ack_sync()
results: List[object] = [js.publish(f"{stream}.b", b"y").seq, pull.fetch()[0].data.decode()]
pool.flush()
tell("works", results=results)
pool.close()
