"""Offline events between processes: who announces them, and who listens."""

from __future__ import annotations

import logging
from typing import List, Optional

from nats.aio.msg import Msg

from . import _wire
from ._client import LinkSubscription
from ._command import publish_command
from ._deadline import Deadline
from ._link import Link
from .options import check_connect_id
from .registry import OnlineRegistry

logger = logging.getLogger("natsbridge")


def announce(link: Link, registry: OnlineRegistry, connect_id: str, *, online: bool, lease: Optional[str] = None) -> None:
    """Tell the listeners of other processes; best effort, never blocks."""
    announcement = _wire.Announcement(connect_id, lease, registry.origin)
    subject = _wire.presence_subject(connect_id, online)
    link.outbox.control(publish_command(subject, _wire.encode_announcement(announcement)))


class PresenceListener:
    """Applies the announcements of other processes to this process's registry; runs on the loop thread."""

    def __init__(self, link: Link, registry: OnlineRegistry) -> None:
        self._link, self._registry = link, registry
        self._subscriptions: List[LinkSubscription] = []

    def start(self, deadline: Deadline) -> None:
        """Any thread: listen. Raises what subscribing raises."""
        for subject, callback in ((_wire.OFFLINE_EVENTS, self._on_offline), (_wire.ONLINE_EVENTS, self._on_online)):
            subscription = LinkSubscription(subject, "", callback)
            self._link.loop.call(
                self._link.connection.subscribe,
                subscription,
                deadline=deadline,
                what=f"subscribing to {subject!r}",
                undo=self._forget,
            )
            self._subscriptions.append(subscription)

    def _forget(self, subscription: LinkSubscription) -> None:
        self._link.spawn(self._link.connection.unsubscribe(subscription))

    def stop(self) -> None:
        """Any thread: listen no longer; does not wait."""
        for subscription in self._subscriptions:
            self._link.loop.post_quietly(self._forget, subscription)
        self._subscriptions.clear()

    def _on_offline(self, msg: Msg) -> None:
        announcement = self._read(msg)
        if announcement is None:
            return
        if announcement.lease is None:
            self._registry.mark_offline(announcement.connect_id)
        else:
            self._registry.end_lease(announcement.connect_id, announcement.lease)

    def _on_online(self, msg: Msg) -> None:
        announcement = self._read(msg)
        if announcement is not None:
            self._registry.forget_offline(announcement.connect_id)

    def _read(self, msg: Msg) -> Optional[_wire.Announcement]:
        announcement = _wire.parse_announcement(msg.data)
        try:
            if announcement is None:
                raise ValueError("it is not the JSON object that docs/protocol.md describes")
            check_connect_id(announcement.connect_id)
        except ValueError as error:
            logger.warning("a malformed presence announcement on %s was ignored: %s", msg.subject, error)
            return None
        return None if announcement.origin == self._registry.origin else announcement
