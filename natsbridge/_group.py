"""``EndpointGroup``: how endpoints are added to a service."""

from __future__ import annotations

from typing import TYPE_CHECKING, Callable, Dict, Mapping, NamedTuple, Optional, TypeVar

from nats.micro.service import NAME_REGEX

from ._deadline import check_timeout
from ._endpoint import Endpoint, ServiceHandler
from ._intake import Intake
from ._registration import Registration, StreamHandler
from .options import check_count, check_handler, check_queue, check_subscription

if TYPE_CHECKING:
    from .service import Service

H = TypeVar("H", bound=ServiceHandler)
SH = TypeVar("SH", bound=StreamHandler)

STREAM_KEY = "natsbridge-stream"  # in the metadata of an endpoint that streams: the version of the stream protocol


class Listed(NamedTuple):
    """An endpoint as others see it, and what serves it."""

    name: str
    metadata: Dict[str, str]
    intake: Intake


class EndpointGroup:
    """Adds endpoints below a common prefix; made by ``add_group`` of a ``Service`` or of another group. Thread-safe.

    Endpoints that are added before the service has been started are served from the start on, later ones at once: then
    adding returns when the server knows, and may raise what subscribing raises (PermissionDeniedError, ConnectError,
    RequestTimeoutError).

    What the methods that add endpoints have in common:

    name: letters, digits, ``-`` and ``_``. It need not be unique.
    subject: below the prefix; the name unless given. Wildcards are allowed.
    queue_group: of the instances in one group, one gets each request. "" for no group: each instance gets each request.
        The group's or service's unless given.
    metadata: strings to strings, for those who ask for the service's info.
    max_workers, max_queued: how many requests are served at once, and how many may wait for that; beyond, a request is
        refused at once (``BusyError``, code 503). The service's unless given.

    They raise TypeError, ValueError or BadSubjectError for arguments that cannot be right, ClosedError, ForkedError.
    """

    def __init__(self, service: Service, prefix: str, queue_group: str) -> None:
        self._service, self._prefix, self._queue_group = service, prefix, queue_group

    def add_group(self, name: str, *, queue_group: Optional[str] = None) -> EndpointGroup:
        """A group whose endpoints have ``name`` and a dot in front of their subjects.

        name: a subject, also of several tokens; "" for no prefix. queue_group: the default for its endpoints.
        """
        if name != "":
            check_subscription(name, "group")
            if name.endswith(">"):
                raise ValueError(f"group {name!r} ends in '>', behind which there is no room for an endpoint's subject")
        prefix = ".".join(part for part in (self._prefix, name) if part)
        return EndpointGroup(self._service, prefix, self._queue(queue_group))

    def add_endpoint(
        self,
        name: str,
        handler: ServiceHandler,
        *,
        subject: Optional[str] = None,
        queue_group: Optional[str] = None,
        metadata: Optional[Mapping[str, str]] = None,
        max_workers: Optional[int] = None,
        max_queued: Optional[int] = None,
    ) -> None:
        """Answer requests with ``handler(request)``, on threads of this endpoint's own.

        The handler answers with ``request.respond`` or ``request.respond_error``, or by raising ``ServiceError``. For any
        other exception the requester gets the error 500, "the handler failed", and the exception is logged here. It may
        return without having answered, and leave that to another thread.
        """
        service = self._service
        subject, queue = self._subject(name, subject), self._queue(queue_group)
        check_handler(handler, yields=True)
        labels = check_metadata(metadata)
        workers, queued = service._limits(max_workers, max_queued)
        endpoint = Endpoint(service.pool, subject, queue, handler, max_workers=workers, max_queued=queued)
        service._add(Listed(name, labels, endpoint))

    def add_stream_endpoint(
        self,
        name: str,
        handler: StreamHandler,
        *,
        subject: Optional[str] = None,
        queue_group: Optional[str] = None,
        metadata: Optional[Mapping[str, str]] = None,
        max_workers: Optional[int] = None,
        max_queued: Optional[int] = None,
        max_detached: int = 1024,
        stall_timeout: Optional[float] = 30.0,
        max_resume: float = 60.0,
    ) -> None:
        """Answer requests with streams, which ``Pool.stream`` reads; ``handler`` is what it is for a ``Subscriber``.

        max_detached, stall_timeout, max_resume: see ``Subscriber``. The endpoint's metadata tells that it streams.
        """
        service = self._service
        subject, queue = self._subject(name, subject), self._queue(queue_group)
        check_handler(handler, yields=True)
        labels = {**check_metadata(metadata), STREAM_KEY: "1"}
        workers, queued = service._limits(max_workers, max_queued)
        longest = check_timeout(max_resume, "max_resume", optional=False)
        registration = Registration(
            service.pool,
            service.registry,
            subject,
            queue,
            handler,
            max_workers=workers,
            max_queued=queued,
            max_detached=check_count(max_detached, "max_detached", 0),
            stall_timeout=check_timeout(stall_timeout, "stall_timeout"),
            max_resume=3600.0 if longest is None else longest,
        )
        service._add(Listed(name, labels, registration))

    def endpoint(
        self,
        name: str,
        *,
        subject: Optional[str] = None,
        queue_group: Optional[str] = None,
        metadata: Optional[Mapping[str, str]] = None,
        max_workers: Optional[int] = None,
        max_queued: Optional[int] = None,
    ) -> Callable[[H], H]:
        """``add_endpoint`` as a decorator. The function stays callable as it was."""

        def decorate(handler: H) -> H:
            self.add_endpoint(
                name,
                handler,
                subject=subject,
                queue_group=queue_group,
                metadata=metadata,
                max_workers=max_workers,
                max_queued=max_queued,
            )
            return handler

        return decorate

    def stream_endpoint(
        self,
        name: str,
        *,
        subject: Optional[str] = None,
        queue_group: Optional[str] = None,
        metadata: Optional[Mapping[str, str]] = None,
        max_workers: Optional[int] = None,
        max_queued: Optional[int] = None,
        max_detached: int = 1024,
        stall_timeout: Optional[float] = 30.0,
        max_resume: float = 60.0,
    ) -> Callable[[SH], SH]:
        """``add_stream_endpoint`` as a decorator. The function stays callable as it was."""

        def decorate(handler: SH) -> SH:
            self.add_stream_endpoint(
                name,
                handler,
                subject=subject,
                queue_group=queue_group,
                metadata=metadata,
                max_workers=max_workers,
                max_queued=max_queued,
                max_detached=max_detached,
                stall_timeout=stall_timeout,
                max_resume=max_resume,
            )
            return handler

        return decorate

    def _subject(self, name: str, subject: Optional[str]) -> str:
        check_name(name, "an endpoint's name")
        own = name if subject is None else check_subscription(subject)
        return check_subscription(f"{self._prefix}.{own}" if self._prefix else own)

    def _queue(self, queue_group: Optional[str]) -> str:
        return self._queue_group if queue_group is None else check_queue(queue_group)


def wrong(value: object, message: str) -> Exception:
    """What is raised for a value that is no str, or not the right one."""
    return ValueError(message) if isinstance(value, str) else TypeError(message)


def check_name(name: object, what: str) -> None:
    """The name of a service or endpoint. Raises TypeError or ValueError."""
    if not isinstance(name, str) or not NAME_REGEX.fullmatch(name):
        raise wrong(name, f"{what} must consist of letters, digits, '-' and '_', not be {name!r}")


def check_metadata(metadata: Optional[Mapping[str, str]]) -> Dict[str, str]:
    """A copy. Raises TypeError, or ValueError for the key that is natsbridge's."""
    if metadata is None:
        return {}
    if not isinstance(metadata, Mapping):
        raise TypeError(f"metadata must be a mapping of str to str, not {metadata!r}")
    pairs: Mapping[object, object] = metadata  # type: ignore[assignment]
    for key, value in pairs.items():
        if not isinstance(key, str) or not isinstance(value, str):
            raise TypeError(f"metadata must map str to str, not {key!r} to {value!r}")
        if key == STREAM_KEY:
            raise ValueError(f"the metadata key {key!r} is natsbridge's: it tells that an endpoint streams")
    return dict(metadata)
