"""A micro service with two endpoints: one answers at once, the other streams.

    python examples/service.py serve          serves until Ctrl-C or SIGTERM, and answers what it took before it ends
    python examples/service.py look           tells which instances there are, and what they have done
    python examples/service.py add 1 2 3      asks for a sum
    python examples/service.py count 5        asks for a stream

Each in a terminal of its own; the server's URL comes from NATS_URL. Serve as often as you like: the instances share the
requests. Tools for services in other languages find them too.
"""

from __future__ import annotations

import os
import sys
import time
from typing import Iterator

from natsbridge import Error, Pool, Service, ServiceClient, ServiceError, ServiceRequest, StreamRequest

pool = Pool(os.environ.get("NATS_URL", "nats://127.0.0.1:4222"))
service = Service(pool, "calculator", "1.0.0", description="sums and numbers")
numbers = service.add_group("numbers")  # what its endpoints' subjects begin with


@numbers.endpoint("add")
def add(request: ServiceRequest) -> None:
    try:
        total = sum(int(word) for word in request.data.split())
    except ValueError:
        raise ServiceError(400, "that is not a list of numbers") from None  # what the requester is told
    request.respond(b"%d" % total)


@numbers.stream_endpoint("count")
def count(request: StreamRequest) -> Iterator[bytes]:
    for number in range(1, int(request.data) + 1):
        yield b"%d" % number
        time.sleep(0.1)


def serve() -> None:
    service.start()  # run() would do it too, but then this could not be printed
    print("serving", service.id, flush=True)
    service.run()
    print("stopped", flush=True)


def look() -> None:
    for stats in ServiceClient(pool).stats("calculator"):
        print(stats.name, stats.version, stats.id)
        for endpoint in stats.endpoints:
            print(f"  {endpoint.subject}: {endpoint.num_requests} requests, {endpoint.num_errors} errors")


def ask(endpoint: str, data: bytes) -> None:
    if endpoint == "count":
        with pool.stream("numbers.count", data) as stream:
            for chunk in stream:
                print(chunk.decode(), flush=True)
    else:
        print(pool.request("numbers.add", data).raise_for_error().data.decode())


def main() -> None:
    action, *words = sys.argv[1:] or ["?"]
    if action == "serve" and not words:
        serve()
    elif action == "look" and not words:
        look()
    elif action in ("add", "count"):
        ask(action, " ".join(words).encode())
    else:
        sys.exit(__doc__)


if __name__ == "__main__":
    try:
        main()
    except Error as error:  # no server, nobody serves, or the service's own
        sys.exit(f"{type(error).__name__}: {error}")
