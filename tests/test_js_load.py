"""JetStream under load: a server that restarts in the middle of everything, and many threads that mix operations."""

from __future__ import annotations

import itertools
import random
import threading
import time
from typing import Any, Callable, Dict, List, Set

import pytest
from nats.js.api import ConsumerConfig, StorageType
from procs import WaitFor

from natsbridge import Error, JetStream, JetStreamMessage, Message, Pool
from natsbridge.server import EmbeddedServer

COUNT = 3000


class Ledger:
    """What became of each message."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.confirmed: Dict[int, int] = {}
        self.late: Set[int] = set()  # came although their acknowledgement had been confirmed
        self.seen: Set[int] = set()

    def handle(self, message: JetStreamMessage) -> None:
        number = int(message.data)
        with self.lock:
            self.seen.add(number)
            if number in self.confirmed:
                self.late.add(number)
        try:
            message.ack_sync(timeout=1)
        except Error:
            return  # it may be acknowledged or not: if not, it comes again
        with self.lock:
            self.confirmed[number] = self.confirmed.get(number, 0) + 1


@pytest.mark.parametrize("how", ["iterate", "fetch", "handlers", "push"])
def test_a_restart_in_the_middle_of_a_consume_loses_nothing(
    make_nats_server: Any, unique: str, wait_for: WaitFor, how: str
) -> None:
    server: EmbeddedServer = make_nats_server(jetstream=True)
    ledger = Ledger()
    with Pool(server.url) as pool:
        js = pool.jetstream()
        js.add_stream(name=unique, subjects=[unique], storage=StorageType.FILE)
        js.publish_many((unique, b"%d" % n) for n in range(COUNT))
        # As many as there are readers: what waits in the client comes a second time after the restart, as is usual for
        # delivery at least once, and would look as if its acknowledgement were lost.
        config = ConsumerConfig(ack_wait=1.5, max_ack_pending=1 if how == "push" else 3)
        stop = threading.Event()
        readers: List[threading.Thread] = []
        if how == "push":
            sub = js.subscribe(unique, durable="c", stream=unique, config=config, cb=ledger.handle, manual_ack=True)
        else:
            pull = js.pull_subscribe(unique, "c", stream=unique, config=config)
        if how == "handlers":
            pull.consume(ledger.handle, max_workers=3, manual_ack=True)
        elif how == "iterate":

            def iterate() -> None:
                for message in pull:
                    ledger.handle(message)

            readers = [threading.Thread(target=iterate) for _ in range(3)]
        elif how == "fetch":

            def fetch() -> None:
                while not stop.is_set():
                    try:
                        messages = pull.fetch(1, timeout=0.5)
                    except Error:  # there is nothing more, or nobody who could answer
                        continue
                    for message in messages:
                        ledger.handle(message)

            readers = [threading.Thread(target=fetch) for _ in range(3)]
        for reader in readers:
            reader.start()
        wait_for(lambda: len(ledger.confirmed) > COUNT // 10, what="the consume to be under way")
        server.restart()
        seen = len(ledger.seen)
        assert seen < COUNT, "it was to be in the middle"

        def done() -> bool:
            try:
                info = js.with_timeout(5).consumer_info(unique, "c")
            except Error:
                return False
            return info.num_pending == 0 and info.num_ack_pending == 0

        wait_for(done, timeout=40, what="everything to be acknowledged")
        stop.set()
        if how == "push":
            sub.unsubscribe()
        else:
            pull.unsubscribe()
        for reader in readers:
            reader.join(10)
        assert ledger.seen == set(range(COUNT))
        assert ledger.late == set()
        assert set(ledger.confirmed.values()) == {1}


def operations(js: JetStream, pool: Pool, unique: str, mine: str, numbers: Any) -> List[Callable[[], object]]:
    """Operations of one thread; each raises AssertionError if what comes back is somebody else's."""
    own = f"{unique}.{mine}"
    sub = js.pull_subscribe(own, mine, stream=unique)
    waiting: List[bytes] = []

    def payload() -> bytes:
        return f"{mine}-{next(numbers)}".encode()

    def publish() -> None:
        data = payload()
        ack = js.publish(own, data)
        waiting.append(data)
        stored = js.get_msg(unique, ack.seq)
        assert (stored.subject, stored.data) == (own, data)

    def publish_async() -> None:
        data = payload()
        waiting.append(data)
        future = js.publish_async(own, data, headers={"Mine": mine})
        stored = js.get_msg(unique, future.result().seq, direct=True)
        assert (stored.data, stored.headers) == (data, {"Mine": mine, **(stored.headers or {})})

    def last() -> None:
        data = payload()
        js.publish(own, data)
        waiting.append(data)
        assert js.get_last_msg(unique, own).data == data

    def request() -> None:
        data = payload()
        assert pool.request(f"{unique}-echo", data, timeout=30).data == data

    def fetch() -> None:
        if waiting:
            for message in sub.fetch(len(waiting), timeout=30):
                assert (message.subject, message.data) == (own, waiting.pop(0))
                message.ack()

    def look() -> None:
        assert js.consumer_info(unique, mine).name == mine

    def failing() -> None:
        try:
            js.get_msg(unique, 10**9 + next(numbers))
        except Error as error:
            assert "no message found" in str(error)  # noqa: PT017 - it is one of many
        else:
            raise AssertionError("a message that is not there")

    return [publish, publish_async, last, request, fetch, look, failing]


@pytest.mark.parametrize(
    ("threads", "each"), [(16, 40), pytest.param(32, 500, marks=[pytest.mark.stress, pytest.mark.timeout(300)])]
)
def test_many_threads_with_mixed_operations_and_every_reply_matched(
    server: EmbeddedServer, unique: str, threads: int, each: int
) -> None:
    failures: List[BaseException] = []
    done = 0
    lock = threading.Lock()

    def echo(message: Message) -> None:
        message.respond(message.data)

    with Pool(server.url, size=2, timeout=60) as pool, Pool(server.url) as other:
        js = pool.jetstream()
        js.add_stream(name=unique, subjects=[f"{unique}.>"], storage=StorageType.MEMORY, allow_direct=True)
        other.subscribe(f"{unique}-echo", handler=echo)

        def work(number: int) -> None:
            nonlocal done
            chosen = random.Random(number)
            try:
                doing = operations(js, pool, unique, f"t{number}", itertools.count())
                for _ in range(each):
                    chosen.choice(doing)()
                    with lock:
                        done += 1
            except BaseException as error:
                failures.append(error)

        workers = [threading.Thread(target=work, args=(n,)) for n in range(threads)]
        start = time.monotonic()
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join(280)
        assert failures == []
        assert done == threads * each
        js.delete_stream(unique)
        print(f"{done} operations in {time.monotonic() - start:.1f} s")
