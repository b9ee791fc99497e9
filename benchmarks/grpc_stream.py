"""One stream of small chunks, sync worker to sync requester: natsbridge beside gRPC's synchronous server streaming.

``python -m benchmarks.grpc_stream [--chunks 100000] [--size 128] [--rounds 5]``; needs ``grpcio``. The server of either
side is a process of its own; the sides take turns, and the ratio is taken within each round.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Dict, Iterable, Iterator

from natsbridge import Pool, ResponseSender, StreamRequest, Subscriber
from natsbridge.server import EmbeddedServer

from ._peer import Peer, serve

_METHOD = "/bench.Stream/Chunks"


def chunks(order: bytes) -> Iterator[bytes]:
    """As many chunks of that size as the order says: ``b"<count> <size>"``."""
    count, size = map(int, order.split())
    chunk = b"x" * size
    for _ in range(count):
        yield chunk


class GrpcWorker:
    """A gRPC server on a free port."""

    def __init__(self) -> None:
        import grpc

        class Handler(grpc.GenericRpcHandler):  # type: ignore[misc]
            def service(self, details: Any) -> Any:
                return grpc.unary_stream_rpc_method_handler(lambda order, _: chunks(order))

        self._server = grpc.server(ThreadPoolExecutor(4))
        self._server.add_generic_rpc_handlers((Handler(),))
        self._port = self._server.add_insecure_port("127.0.0.1:0")
        self._server.start()

    def look(self) -> Dict[str, int]:
        """Where it listens."""
        return {"port": self._port}


class NatsWorker:
    """A natsbridge worker on asyncio's own event loop."""

    def __init__(self, url: str) -> None:
        self._subscriber = Subscriber(Pool(url, uvloop=False))
        self._subscriber.stream_subscribe_handler("bench.chunks", self._handle)

    @staticmethod
    def _handle(request: StreamRequest, sender: ResponseSender) -> None:
        for chunk in chunks(request.data):
            sender.send(chunk)


def rate(stream: Iterable[bytes], count: int) -> float:
    """Chunks a second, all of them read."""
    began = time.perf_counter()
    got = sum(1 for _ in stream)
    assert got == count, f"{got} chunks of {count}"
    return count / (time.perf_counter() - began)


def main() -> int:
    """Measure and print; returns the exit code, 0 whatever the ratio."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.grpc_stream", description=__doc__)
    parser.add_argument("--chunks", type=int, default=100_000)
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    import grpc

    order = b"%d %d" % (given.chunks, given.size)
    with EmbeddedServer() as server, Pool(server.url, uvloop=False) as pool:
        peers = [Peer("grpc_stream", "grpc"), Peer("grpc_stream", "nats", server.url)]
        try:
            channel = grpc.insecure_channel(f"127.0.0.1:{peers[0].ask('look')['port']}")
            ask = channel.unary_stream(_METHOD)
            ratios = []
            for number in range(given.rounds + 1):
                theirs, ours = rate(ask(order), given.chunks), rate(pool.stream("bench.chunks", order), given.chunks)
                if number:  # the first round warms up
                    ratios.append(ours / theirs)
                    print(f"gRPC {theirs:9,.0f}/s   natsbridge {ours:9,.0f}/s   {ours / theirs:5.1f} x")
            spread = f"{min(ratios):.1f} ... {max(ratios):.1f}"
            print(f"median {statistics.median(ratios):.1f} x ({spread}), grpcio {grpc.__version__}")
            channel.close()
        finally:
            for peer in peers:
                peer.close()
    return 0


if __name__ == "__main__":
    if sys.argv[1:2] == ["grpc"]:
        serve(GrpcWorker())
    elif sys.argv[1:2] == ["nats"]:
        serve(NatsWorker(sys.argv[2]))
    else:
        sys.exit(main())
