"""A responder that knows nothing of natsbridge: bare nats-py; messages to the request's reply subject, then an empty one.

Options: ``url``; ``subject``; ``name``. Each request's payload says how it wants to be answered (see ``Plan`` in
``peers.py``). Tells ``ready``, and ``answered`` for each request.
"""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path

import nats
from nats.aio.msg import Msg

sys.path.append(str(Path(__file__).resolve().parents[2] / "programs"))
from lines import options, tell


async def main() -> None:
    given = options()
    nc = await nats.connect(given["url"])

    async def answer(msg: Msg) -> None:
        plan = json.loads(msg.data)
        for number in range(plan["total"]):
            if number and plan["pause"]:
                await asyncio.sleep(plan["pause"])
            chunk = f"{given['name']} {number}" if plan["signed"] else f"{number} ".ljust(plan["size"], ".")
            await nc.publish(msg.reply, chunk.encode(), headers={"Number": str(number)})
        if plan["end"] == "empty":
            await nc.publish(msg.reply)
        elif plan["end"] == "error":
            failure = {"Nats-Service-Error": "out of paper", "Nats-Service-Error-Code": "507"}
            await nc.publish(msg.reply, headers=failure)
        tell("answered")

    async def on_request(msg: Msg) -> None:
        task = asyncio.ensure_future(answer(msg))  # many at a time
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    tasks: set[asyncio.Future[None]] = set()
    await nc.subscribe(given["subject"], cb=on_request)
    await nc.flush()
    tell("ready")
    await asyncio.Event().wait()  # until it is killed


if __name__ == "__main__":
    asyncio.run(main())
