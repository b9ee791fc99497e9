"""A requester that knows nothing of natsbridge: natsext's ``request_many``, or bare nats-py with an inbox of its own.

Options: ``url``; ``subject``; ``headers``; ``via``: "natsext" or "inbox"; ``timeout``; ``stop_after``: leave the loop after
so many messages. Tells ``item`` for each chunk, ``sentinel`` for an empty message, then ``end`` or ``error``. The order
``close``, or the end of the orders, makes it close its connection.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import sys
from pathlib import Path
from typing import AsyncGenerator, AsyncIterator

import nats
import nats.errors
from nats.aio.client import Client
from nats.aio.msg import Msg

sys.path.append(str(Path(__file__).resolve().parents[2] / "programs"))
from lines import Facts, options, orders, tell


async def through_natsext(nc: Client, given: Facts) -> AsyncGenerator[Msg, None]:
    from natsext import request_many_msg  # type: ignore[import-not-found, unused-ignore]

    request = Msg(nc, subject=given["subject"], headers=given.get("headers"))
    replies: AsyncIterator[Msg] = request_many_msg(nc, request, sentinel=is_sentinel, timeout=given["timeout"])
    async for msg in replies:
        yield msg


async def through_an_inbox(nc: Client, given: Facts) -> AsyncGenerator[Msg, None]:
    inbox = nc.new_inbox()
    subscription = await nc.subscribe(inbox)
    try:
        await nc.publish(given["subject"], reply=inbox, headers=given.get("headers"))
        while True:
            msg = await subscription.next_msg(timeout=given["timeout"])
            if is_sentinel(msg):
                return
            yield msg
    finally:
        await subscription.unsubscribe()


def is_sentinel(msg: Msg) -> bool:
    if msg.data:
        return False
    tell("sentinel", headers=msg.headers)
    return True


async def read(nc: Client, given: Facts) -> None:
    items = 0
    replies = {"natsext": through_natsext, "inbox": through_an_inbox}[given["via"]](nc, given)
    try:
        async for msg in replies:
            items += 1
            tell("item", n=items, size=len(msg.data), digest=hashlib.sha256(msg.data).hexdigest())
            if items == given.get("stop_after"):
                break
    finally:
        await replies.aclose()
    tell("end", items=items, yielded=items)


async def main() -> None:
    given = options()
    nc = await nats.connect(given["url"])
    try:
        await read(nc, given)
    except nats.errors.Error as error:
        tell("error", name=type(error).__name__, message=str(error))
    order = orders()
    await asyncio.get_running_loop().run_in_executor(None, lambda: next(order, None))
    await nc.close()
    tell("closed")


if __name__ == "__main__":
    asyncio.run(main())
    os._exit(0)  # the orders' pipe is still open
