"""What type checkers see of the blocking methods: checked by mypy and pyright, never run (see ``test_types.py``)."""

from __future__ import annotations

from typing import TYPE_CHECKING, List, Optional

if TYPE_CHECKING:
    from nats.aio.msg import Msg
    from nats.js.api import AccountInfo, ConsumerInfo, PubAck, RawStreamMsg, StreamInfo
    from typing_extensions import assert_type

    from natsbridge import (
        Consuming,
        JetStream,
        JetStreamMessage,
        OrderedConsumer,
        Pool,
        PublishFuture,
        PullSubscription,
        PushSubscription,
    )

    def results(js: JetStream, pool: Pool) -> None:
        assert_type(pool.jetstream(domain="hub"), JetStream)
        assert_type(pool.rtt(), float)
        assert_type(js.with_timeout(3.0), JetStream)
        assert_type(js.account_info(), AccountInfo)
        assert_type(js.stream_info("S"), StreamInfo)
        assert_type(js.stream_info("S", subjects_filter=">"), StreamInfo)
        assert_type(js.streams_info(), List[StreamInfo])
        assert_type(js.add_stream(name="S", subjects=["s"]), StreamInfo)
        assert_type(js.add_consumer("S", durable_name="c", timeout=2.0), ConsumerInfo)
        assert_type(js.consumers_info("S"), List[ConsumerInfo])
        assert_type(js.get_msg("S", 1, direct=True), RawStreamMsg)
        assert_type(js.delete_stream("S"), bool)

    def publishing(js: JetStream) -> None:
        assert_type(js.publish("s", b"x", stream="S"), PubAck)
        future = js.publish_async("s", b"x")
        assert_type(future, PublishFuture)
        assert_type(future.result(timeout=1), PubAck)
        assert_type(future.exception(), Optional[Exception])
        assert_type(js.publish_many([("s", b"x"), ("s", b"y", {"a": "b"})]), List[PubAck])

    def consuming(js: JetStream) -> None:
        sub = js.pull_subscribe("s", "c", stream="S")
        assert_type(sub, PullSubscription)
        assert_type(js.pull_subscribe_bind("c", stream="S"), PullSubscription)
        assert_type(sub.fetch(10, timeout=1), List[JetStreamMessage])
        assert_type(sub.next_msg(), JetStreamMessage)
        assert_type(sub.consume(print, max_workers=2), Consuming)
        assert_type(js.subscribe("s"), PushSubscription)
        assert_type(js.subscribe("s", "q", print), PushSubscription)
        assert_type(js.subscribe("s", ordered_consumer=True), OrderedConsumer)
        assert_type(js.ordered_consumer("S"), OrderedConsumer)
        for message in sub:
            assert_type(message, JetStreamMessage)
            assert_type(message.metadata, Msg.Metadata)
            assert_type(message.data, bytes)
        with sub as same:
            assert_type(same, PullSubscription)
        with js.ordered_consumer("S") as consumer:
            assert_type(consumer, OrderedConsumer)

    # The rest must be refused. An "ignore" that is not needed is an error itself: these hold only while types are known.
    def parameters(js: JetStream) -> None:
        js.stream_info(5)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
        js.stream_info()  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
        js.publish("s", "text")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
        js.delete_msg("S", seq="1")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
        js.add_consumer("S", timeout="soon")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
        js.pull_subscribe(5)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
        js.publish_many([5])  # type: ignore[list-item]  # pyright: ignore[reportArgumentType]
        js.subscribe("s", cb=5)  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType]
        js.ordered_consumer("S", no_such=1)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
