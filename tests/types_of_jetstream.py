"""What type checkers see of the blocking methods: checked by mypy alone, never run."""

from __future__ import annotations

from typing import TYPE_CHECKING, List

if TYPE_CHECKING:
    from nats.js.api import ConsumerInfo, PubAck, RawStreamMsg, StreamInfo
    from typing_extensions import assert_type

    from natsbridge import JetStream, Pool

    def results(js: JetStream, pool: Pool) -> None:
        assert_type(pool.jetstream(domain="hub"), JetStream)
        assert_type(js.with_timeout(3.0), JetStream)
        assert_type(js.stream_info("S"), StreamInfo)
        assert_type(js.stream_info("S", subjects_filter=">"), StreamInfo)
        assert_type(js.streams_info(), List[StreamInfo])
        assert_type(js.add_stream(name="S", subjects=["s"]), StreamInfo)
        assert_type(js.add_consumer("S", durable_name="c", timeout=2.0), ConsumerInfo)
        assert_type(js.publish("s", b"x", stream="S"), PubAck)
        assert_type(js.get_msg("S", 1, direct=True), RawStreamMsg)
        assert_type(js.delete_stream("S"), bool)

    def parameters(js: JetStream) -> None:
        # An "ignore" that is not needed is an error: these hold only while the parameters' types are known.
        js.stream_info(5)  # type: ignore[arg-type]
        js.stream_info()  # type: ignore[call-arg]
        js.publish("s", "text")  # type: ignore[arg-type]
        js.delete_msg("S", seq="1")  # type: ignore[arg-type]
        js.add_consumer("S", timeout="soon")  # type: ignore[arg-type]
