"""``ServiceClient``: finds services, and asks for their info and figures (ADR-32)."""

from __future__ import annotations

import json
import logging
import re
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any, Callable, Dict, List, Optional, TypeVar

from nats.micro.service import (
    EndpointInfo,
    EndpointStats,
    ServiceInfo,
    ServicePing,
    ServiceStats,
    ServiceVerb,
    control_subject,
)

from ._group import check_name
from ._lifecycle import check_pool
from .errors import BadSubjectError, NoRespondersError
from .options import check_subject

if TYPE_CHECKING:
    from .pool import Pool

logger = logging.getLogger("natsbridge")

T = TypeVar("T")

_TIME = re.compile(r"(\d{4}-\d\d-\d\d[Tt]\d\d:\d\d:\d\d)(\.\d+)?([Zz]|[+-]\d\d:\d\d)\Z")


class ServiceClient:
    """Asks the services of whatever language, with a pool's connection: ``ServiceClient(pool).ping("orders")``.

    Each method asks all services, those with a ``name``, or the instance with that ``id`` too, and returns a list of what
    nats-py's dataclasses hold, one for each instance that answered; it is empty when nobody did.

    timeout: seconds in all. stall: seconds since the last answer after which no further one is awaited.

    Fields that an implementation leaves out are empty; an answer that is not to be understood is left out itself, and
    logged as DEBUG. The methods raise what iterating ``Pool.request_many`` raises, but for NoRespondersError, and
    TypeError, ValueError or BadSubjectError for arguments that cannot be right. Thread-safe.
    """

    def __init__(self, pool: Pool) -> None:
        check_pool(pool)
        self._pool = pool

    def ping(
        self, name: Optional[str] = None, id: Optional[str] = None, *, timeout: float = 2.0, stall: float = 0.3
    ) -> List[ServicePing]:
        """Which instances there are: their ``name``, ``id``, ``version`` and ``metadata``."""
        return self._ask(ServiceVerb.PING, name, id, timeout, stall, lambda data: ServicePing(**_identity(data)))

    def info(
        self, name: Optional[str] = None, id: Optional[str] = None, *, timeout: float = 2.0, stall: float = 0.3
    ) -> List[ServiceInfo]:
        """What they are, and which endpoints they have. ``metadata`` of an endpoint tells whether it streams."""
        return self._ask(ServiceVerb.INFO, name, id, timeout, stall, _info)

    def stats(
        self, name: Optional[str] = None, id: Optional[str] = None, *, timeout: float = 2.0, stall: float = 0.3
    ) -> List[ServiceStats]:
        """The figures of their endpoints; times in nanoseconds, ``started`` with a time zone."""
        return self._ask(ServiceVerb.STATS, name, id, timeout, stall, _stats)

    def _ask(
        self,
        verb: ServiceVerb,
        name: Optional[str],
        id: Optional[str],
        timeout: float,
        stall: float,
        read: Callable[[Dict[str, Any]], T],
    ) -> List[T]:
        if name is not None:
            check_name(name, "a service's name")
        if id is not None:
            if name is None:
                raise ValueError("an id is looked for among the services of a name: pass the name too")
            if "." in check_subject(id, "id"):
                raise BadSubjectError(f"bad id {id!r}: it has a dot")
        found: List[T] = []
        subject = control_subject(verb, name, id)
        limit = None if id is None else 1
        with self._pool.request_many(subject, timeout=timeout, stall=stall, max_messages=limit) as replies:
            try:
                for message in replies:
                    try:
                        found.append(read(json.loads(message.data)))
                    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
                        logger.debug("an answer to %s was not understood: %r", subject, error)
            except NoRespondersError:
                pass  # there is none, which is an answer too
        return found


def _identity(data: Dict[str, Any]) -> Dict[str, Any]:
    return {"name": data["name"], "id": data["id"], "version": data["version"], "metadata": data.get("metadata") or {}}


def _info(data: Dict[str, Any]) -> ServiceInfo:
    endpoints = [
        EndpointInfo(each["name"], each["subject"], each.get("queue_group") or "", each.get("metadata") or {})
        for each in data.get("endpoints") or []
    ]
    return ServiceInfo(**_identity(data), description=data.get("description") or "", endpoints=endpoints)


def _stats(data: Dict[str, Any]) -> ServiceStats:
    endpoints = [
        EndpointStats(
            name=each["name"],
            subject=each["subject"],
            queue_group=each.get("queue_group") or "",
            num_requests=each.get("num_requests") or 0,
            num_errors=each.get("num_errors") or 0,
            processing_time=each.get("processing_time") or 0,
            average_processing_time=each.get("average_processing_time") or 0,
            last_error=each.get("last_error") or "",
            data=each.get("data"),
        )
        for each in data.get("endpoints") or []
    ]
    return ServiceStats(**_identity(data), started=_time(data["started"]), endpoints=endpoints)


def _time(text: str) -> datetime:
    """RFC 3339, with a fraction of any length: implementations give milliseconds, microseconds or nanoseconds."""
    match = _TIME.match(text)
    if match is None:
        raise ValueError(f"{text!r} is no point in time")
    seconds, fraction, zone = match.groups()
    micros = ((fraction or ".")[1:7]).ljust(6, "0")
    zone = "+00:00" if zone in "Zz" else zone
    # In UTC, as nats-py's to_dict writes whatever it holds.
    return datetime.strptime(f"{seconds.upper()}.{micros}{zone}", "%Y-%m-%dT%H:%M:%S.%f%z").astimezone(timezone.utc)
