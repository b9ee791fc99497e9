"""An object's description, found and replaced: only if nobody else has changed it in between."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Callable, NamedTuple, Optional

import nats.js.errors
from nats.js import api
from nats.js.kv import MSG_ROLLUP_SUBJECT

from ._deadline import Deadline
from ._objects import parse_info
from .errors import NoStreamResponseError, PermissionDeniedError, RequestTimeoutError

if TYPE_CHECKING:
    from .jetstream import JetStream

_NO_MESSAGE = 10037  # JetStream's error codes
_NOT_DELETED = (10043, 10057)
_WRONG_SEQUENCE = (10071, 10164)

# What says for certain that a description was not stored.
_REFUSED = (nats.js.errors.APIError, NoStreamResponseError, PermissionDeniedError, TypeError, ValueError)


class Found(NamedTuple):
    """What a store says about a name. ``info``: None when nothing is known of it. ``seq``: the message's, or 0."""

    info: Optional[api.ObjectInfo]
    seq: int
    data: bytes


def find(js: JetStream, stream: str, subject: str) -> Found:
    """Raises nats-py's BadObjectMetaError, and what ``get_last_msg`` raises for other reasons than a missing message."""
    try:
        message = js.get_last_msg(stream, subject)
    except nats.js.errors.NotFoundError as error:
        if error.err_code != _NO_MESSAGE:
            raise
        return Found(None, 0, b"")
    return Found(parse_info(message.data, message.time), message.seq or 0, message.data or b"")


def take_away(js: JetStream, stream: str, seq: int) -> bool:
    """Remove the description in message ``seq``; False if it is there no more. Raises what ``delete_msg`` raises."""
    try:
        return js.delete_msg(stream, seq)
    except nats.js.errors.APIError as error:
        if error.err_code not in _NOT_DELETED:
            raise
        return False


class Change:
    """One description in place of another; one thread's.

    ``stored``: whether it was; None while nobody knows, since the acknowledgement is missing. ``info``, ``seq``: the new
    one and its message. ``former``: what it replaces, or would have replaced.
    """

    def __init__(
        self,
        js: JetStream,
        stream: str,
        subject: str,
        describe: Callable[[Optional[api.ObjectInfo]], api.ObjectInfo],
    ) -> None:
        """``describe``: makes the new description of the one that is there; what it raises ends the change."""
        self._js, self._stream, self._subject, self._describe = js, stream, subject, describe
        self.stored: Optional[bool] = False
        self.former: Optional[api.ObjectInfo] = None
        self.info: Optional[api.ObjectInfo] = None
        self.seq = 0
        self._place = 0  # the number of the message that is to be replaced
        self._data = b""

    def make(self, deadline: Deadline) -> None:
        """Replace what is there, however often others do so meanwhile. Raises what finding and publishing raise."""
        while True:
            found = self._find(deadline)
            info = self._describe(found.info)
            info.mtime = None  # readers take the time of the message
            self.former, self.info, self._place = found.info, info, found.seq
            self._data = json.dumps(info.as_dict()).encode()
            try:
                self._publish(deadline)
            except nats.js.errors.APIError as error:
                if error.err_code not in _WRONG_SEQUENCE:
                    raise
                if deadline.passed():
                    raise RequestTimeoutError(
                        f"others changed object {info.name!r} all the time, for {deadline.timeout:g} s: nothing was changed"
                    ) from None
            else:
                return

    def settle(self, deadline: Deadline) -> None:
        """Learn whether it is stored, when the acknowledgement was lost or an interrupt came before it.

        Asking is not enough: the answer may overtake what was sent. So that is sent again, as long as what it replaces is
        still there; either of the two will be stored, and not both. Raises what finding and publishing raise.
        """
        while self.stored is None:
            found = self._find(deadline)
            if self._is_ours(found):
                self.stored, self.seq = True, found.seq
            elif found.seq != self._place:
                self.stored = False  # and it will not be: nothing can be stored in that place any more
            else:
                try:
                    self._publish(deadline)
                except _REFUSED as error:
                    self.stored = None  # this one is not, the one before may be
                    if getattr(error, "err_code", None) not in _WRONG_SEQUENCE:
                        raise

    def _is_ours(self, found: Found) -> bool:
        """Others may have changed it since."""
        if found.data == self._data:
            return True
        former = None if self.former is None else self.former.nuid
        return found.info is not None and self.info is not None and found.info.nuid == self.info.nuid != former

    def _find(self, deadline: Deadline) -> Found:
        return find(self._within(deadline), self._stream, self._subject)

    def _publish(self, deadline: Deadline) -> None:
        headers = {
            str.__str__(api.Header.ROLLUP): MSG_ROLLUP_SUBJECT,
            str.__str__(api.Header.EXPECTED_LAST_SUBJECT_SEQUENCE): str(self._place),
        }
        self.stored = None
        try:
            self.seq = self._within(deadline).publish(self._subject, self._data, headers=headers).seq
        except _REFUSED:
            self.stored = False
            raise
        self.stored = True

    def _within(self, deadline: Deadline) -> JetStream:
        return self._js.with_timeout(round(deadline.at_most(self._js.timeout), 2))  # errors name it
