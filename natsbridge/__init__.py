"""natsbridge: a synchronous, threaded NATS client whose streamed answers stop when nobody listens any more."""

from __future__ import annotations

import importlib.metadata
import logging

from ._acks import PublishFuture
from ._endpoint import ServiceRequest
from ._group import EndpointGroup
from ._handling import Consuming
from ._registration import RegistrationStats
from .errors import (
    BadHeaderError,
    BadSubjectError,
    BusyError,
    ClientOfflineError,
    ClosedError,
    ConnectError,
    DisconnectedError,
    Error,
    FetchTimeoutError,
    ForkedError,
    LoopThreadError,
    MaxPayloadError,
    NatsBridgeError,
    NoRespondersError,
    NoStreamResponseError,
    PermissionDeniedError,
    PublishManyError,
    RequestTimeoutError,
    ResponderLostError,
    ServerError,
    ServiceError,
    SlowConsumerError,
    StreamError,
    StreamGapError,
)
from .jetstream import JetStream
from .jsmessage import JetStreamMessage
from .message import Message
from .ordered import OrderedConsumer
from .pool import Pool, PoolStats
from .process import is_client_online, mark_client_offline, mark_client_online
from .pulling import PullSubscription
from .pushing import PushSubscription
from .registry import OnlineRegistry, online_clients
from .replies import Replies
from .requester import ResponseStream
from .responder import ResponseSender, StreamRequest
from .service import Service
from .service_client import ServiceClient
from .subscriber import Subscriber
from .subscription import Subscription

__all__ = [
    # what a program constructs
    "OnlineRegistry",
    "Pool",
    "Service",
    "ServiceClient",
    "Subscriber",
    # what it is handed
    "Consuming",
    "EndpointGroup",
    "JetStream",
    "JetStreamMessage",
    "Message",
    "OrderedConsumer",
    "PoolStats",
    "PublishFuture",
    "PullSubscription",
    "PushSubscription",
    "RegistrationStats",
    "Replies",
    "ResponseSender",
    "ResponseStream",
    "ServiceRequest",
    "StreamRequest",
    "Subscription",
    # who is online
    "is_client_online",
    "mark_client_offline",
    "mark_client_online",
    "online_clients",
    # what can go wrong
    "BadHeaderError",
    "BadSubjectError",
    "BusyError",
    "ClientOfflineError",
    "ClosedError",
    "ConnectError",
    "DisconnectedError",
    "Error",
    "FetchTimeoutError",
    "ForkedError",
    "LoopThreadError",
    "MaxPayloadError",
    "NatsBridgeError",
    "NoRespondersError",
    "NoStreamResponseError",
    "PermissionDeniedError",
    "PublishManyError",
    "RequestTimeoutError",
    "ResponderLostError",
    "ServerError",
    "ServiceError",
    "SlowConsumerError",
    "StreamError",
    "StreamGapError",
]

logging.getLogger("natsbridge").addHandler(logging.NullHandler())


def __getattr__(name: str) -> str:
    # Reading the installed metadata takes longer than importing the rest does, and few programs ask.
    if name == "__version__":
        return importlib.metadata.version("natsbridge")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
