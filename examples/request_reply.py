"""Messages without streams: a request and its reply, and publishing to a subscription.

    python examples/request_reply.py [nats://127.0.0.1:4222]

Both sides are in this one program, which ends by itself.
"""

from __future__ import annotations

import os
import sys

from natsbridge import Error, Message, NoRespondersError, Pool

url = sys.argv[1] if len(sys.argv) > 1 else os.environ.get("NATS_URL", "nats://127.0.0.1:4222")


def greet(message: Message) -> None:
    message.respond(b"hello " + message.data)


def main() -> None:
    with Pool(url) as pool:
        pool.subscribe("greet", queue="greeters", handler=greet)  # on the pool's handler threads
        reply = pool.request("greet", b"Ada", timeout=2)
        print(reply.data.decode())

        try:
            pool.request("nobody.there", b"Ada", timeout=2)
        except NoRespondersError as error:  # at once, not after two seconds
            print(error)

        with pool.subscribe("news.*") as news:  # no handler: read it
            for number in range(3):
                pool.publish(f"news.{number}", b"item %d" % number)
            for _ in range(3):
                message = news.next_msg(timeout=2)
                print(message.subject, message.data.decode())


if __name__ == "__main__":
    try:
        main()
    except Error as error:  # no server
        sys.exit(f"{type(error).__name__}: {error}")
