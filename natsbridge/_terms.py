"""What a pull consumer promises of its messages, as far as it decides how they may be read: ahead, or one at a time."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING

from nats.errors import NotJSMessageError

if TYPE_CHECKING:
    from .jsmessage import JetStreamMessage

_AGAIN = 5.0  # seconds after which an answer that has not come is asked for again


class Terms:
    """Whether a consumer's messages are acknowledged, and how often each is delivered. Only the loop learns."""

    def __init__(self) -> None:
        self.known = False
        self.acks = True
        self._deliveries = -1  # of one message, at most; without a limit if below 1
        self._ask_at = 0.0

    def due(self) -> bool:
        """Whether the server is to be asked now; true once in a while, until it has answered."""
        now = time.monotonic()
        if self.known or now < self._ask_at:
            return False
        self._ask_at = now + _AGAIN
        return True

    def refuse(self) -> None:
        """The server is never asked again: this client may not."""
        self._ask_at = float("inf")

    def learn(self, answer: bytes) -> None:
        """What the server says of the consumer; an error is left to those who read."""
        try:
            config = json.loads(answer)["config"]
            self._deliveries = int(config.get("max_deliver") or -1)
            self.acks = config.get("ack_policy") in ("explicit", "all")
        except (ValueError, KeyError, TypeError, AttributeError):
            return
        self.known = True

    def returns(self, message: JetStreamMessage) -> bool:
        """Whether a message that is given back is delivered again."""
        return self.acks and (self._deliveries < 1 or _delivered(message) < self._deliveries)

    def spares(self, message: JetStreamMessage) -> bool:
        """Whether messages like this one may be asked for ahead of their reader: it could be given back, and once more."""
        return self.known and self.acks and (self._deliveries < 1 or _delivered(message) < self._deliveries - 1)


def _delivered(message: JetStreamMessage) -> int:
    try:
        return int(message.metadata.num_delivered)
    except (NotJSMessageError, ValueError):  # somebody published it to where the consumer's are expected
        return 0
