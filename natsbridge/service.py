"""``Service``: a NATS micro service (ADR-32), whose endpoints are handlers on bounded threads."""

from __future__ import annotations

import json
import logging
import secrets
import threading
from contextlib import suppress
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any, Callable, Dict, List, Mapping, Optional

from nats.micro.service import (
    DEFAULT_QUEUE_GROUP,
    SEMVER_REGEX,
    EndpointInfo,
    EndpointStats,
    ServiceInfo,
    ServicePing,
    ServiceStats,
    ServiceVerb,
    control_subject,
)

from . import _fork
from ._deadline import Deadline, check_timeout
from ._discovery import Discovery
from ._endpoint import Endpoint
from ._group import EndpointGroup, Listed, check_metadata, check_name, wrong
from ._intake import Counts
from ._lifecycle import check_pool
from ._serving import Serving
from .errors import Error, RequestTimeoutError
from .options import check_count, check_handler, check_line, check_queue

if TYPE_CHECKING:
    from .pool import Pool

logger = logging.getLogger("natsbridge")

_EXCEPTION_TIMEOUT = 5.0  # seconds

StatsHandler = Callable[[EndpointStats], Any]


class Service(Serving, EndpointGroup):
    """A micro service: named endpoints that answer requests, found and watched by ``$SRV.PING``, ``INFO`` and ``STATS``.

    ``Pool.add_service`` makes one and starts it. Made directly it connects nothing before ``start``, ``run`` or ``with``,
    so it can be made, and get its endpoints, while a module is imported. A pool may have many. As a context manager it
    stops when the block is left: requests that had arrived are answered first. It survives lost and replaced connections.

    name: letters, digits, ``-`` and ``_``; instances that have it in common do the same.
    version: a semantic version, such as ``1.0.0``.
    description, metadata: for those who ask for its info; metadata maps strings to strings.
    queue_group: of the instances in one group, one gets each request; "" for no group. Groups and endpoints may have
        their own.
    stats_handler: ``stats_handler(endpoint_stats)`` gives further figures of an endpoint, anything that JSON can express.
        It runs on a thread of its own or in the caller of ``stats``.
    max_workers, max_queued: per endpoint, how many requests are served at once, and how many may wait.

    Thread-safe. Belongs to the process that made it: a forked child gets ``ForkedError``. Raises TypeError, ValueError or
    BadSubjectError for arguments that cannot be right.
    """

    def __init__(
        self,
        pool: Pool,
        name: str,
        version: str,
        *,
        description: str = "",
        metadata: Optional[Mapping[str, str]] = None,
        queue_group: str = DEFAULT_QUEUE_GROUP,
        stats_handler: Optional[StatsHandler] = None,
        max_workers: int = 16,
        max_queued: int = 16,
    ) -> None:
        check_pool(pool)
        check_name(name, "a service's name")
        _check_version(version)
        if not isinstance(description, str):
            raise TypeError(f"description must be a str, not {description!r}")
        if stats_handler is not None:
            check_handler(stats_handler, "stats_handler")
        Serving.__init__(self, pool, pool.registry, "service")
        EndpointGroup.__init__(self, self, "", check_queue(queue_group))
        self.name, self.version, self.description = name, version, description
        self.max_workers = check_count(max_workers, "max_workers")
        self.max_queued = check_count(max_queued, "max_queued", 0)
        self._id = secrets.token_hex(12)
        check_line(control_subject(ServiceVerb.STATS, name, self._id), "")
        self._metadata = check_metadata(metadata)
        self._stats_handler = stats_handler
        self._listed: List[Listed] = []  # guarded by _lock, as the next two are
        self._announced = False
        self._since = datetime.now(timezone.utc)
        self._stopped = threading.Event()
        answers = {
            ServiceVerb.PING: lambda: self.ping().to_dict(),
            ServiceVerb.INFO: lambda: self.info().to_dict(),
            ServiceVerb.STATS: lambda: self.stats().to_dict(),
        }
        self._discovery = Discovery(pool, name, self._id, answers, user_code=stats_handler is not None)

    def _limits(self, max_workers: Optional[int], max_queued: Optional[int]) -> tuple[int, int]:
        return (
            self.max_workers if max_workers is None else check_count(max_workers, "max_workers"),
            self.max_queued if max_queued is None else check_count(max_queued, "max_queued", 0),
        )

    def _add(self, listed: Listed) -> None:
        check_line(listed.intake.subject, listed.intake.queue)
        self._check()
        self._plan(listed.intake)
        with self._lock:
            self._listed.append(listed)

    # -- life ---------------------------------------------------------------------------------------------------------

    def start(self) -> Service:
        """Serve the endpoints that were added so far, and be found; idempotent. Returns itself.

        Raises PermissionDeniedError, ConnectError, RequestTimeoutError, ClosedError, ForkedError; it may be repeated.
        """
        with self._lock:
            if not self._announced:
                self._announced = True
                self._since = datetime.now(timezone.utc)
                self._planned.append(self._discovery)  # last, so that what is found is served
        return super().start()

    def stop(self, timeout: Optional[float] = 30.0) -> None:
        """Take in no new requests, be found no more, let the handlers answer what had arrived, and end. Idempotent.

        Raises RequestTimeoutError when that takes longer than ``timeout`` seconds; the service has ended even so: streams
        that were open, and requests that no handler had begun, end with an error for their requesters. Answers that a
        handler has left to other threads are not waited for. A stopped service cannot be started again.
        """
        self.drain(timeout)

    def drain(self, timeout: Optional[float] = 30.0) -> None:
        """The same as ``stop``."""
        deadline = Deadline(check_timeout(timeout))
        serving = bool(self._served) and self._generation == _fork.generation
        super().drain(timeout)
        if serving:
            try:
                self.pool.flush(deadline.remaining())
            except RequestTimeoutError:
                raise
            except Error as error:  # the pool keeps what was not written yet, and has reported what was refused
                logger.warning("whether the last answers of service %r have arrived is not known: %s", self.name, error)

    def _answer_all(self, deadline: Deadline) -> None:
        """Take in no new requests, and let handlers answer those that had arrived; streams are not waited for."""
        with self._lock:
            everything = list(self._served)
        for served in everything:
            with suppress(Error):
                served.stop_intake(deadline)
        for served in everything:
            if isinstance(served, Endpoint):
                served.wait_idle(deadline)

    @property
    def stopped(self) -> threading.Event:
        """Set when the service has ended, by whatever way: ``stopped.is_set()``, ``stopped.wait(timeout)``."""
        return self._stopped

    def _on_closed(self, deadline: Deadline) -> None:
        self._stopped.set()

    def __exit__(self, *exc_info: object) -> None:
        """``stop``; but an exception that leaves the block waits for 5 seconds at most, and is not replaced by another."""
        if exc_info[0] is None:
            self.stop()
            return
        try:
            self.stop(_EXCEPTION_TIMEOUT)
        except Error as error:
            logger.warning("%s", error)

    # -- looking ------------------------------------------------------------------------------------------------------

    @property
    def id(self) -> str:
        """What no other instance of any service has."""
        return self._id

    @property
    def metadata(self) -> Dict[str, str]:
        """A copy: what was given when the service was made holds as long as it does."""
        return dict(self._metadata)

    def ping(self) -> ServicePing:
        """What ``$SRV.PING`` is answered with."""
        return ServicePing(id=self._id, name=self.name, version=self.version, metadata=self.metadata)

    def info(self) -> ServiceInfo:
        """What ``$SRV.INFO`` is answered with: the service, and its endpoints in the order in which they were added."""
        return ServiceInfo(
            name=self.name,
            id=self._id,
            version=self.version,
            description=self.description,
            endpoints=[
                EndpointInfo(listed.name, listed.intake.subject, listed.intake.queue, dict(listed.metadata))
                for listed in self._endpoints()
            ],
            metadata=self.metadata,
        )

    def stats(self) -> ServiceStats:
        """What ``$SRV.STATS`` is answered with: figures of each endpoint since the beginning or the last ``reset``.

        ``num_requests`` counts requests when they arrive, also those that are refused. ``num_errors`` counts those that
        were answered with an error, whoever chose it, each once; ``last_error`` is code and description of the latest.
        ``processing_time`` is what handlers took from their start to their return, in nanoseconds, and
        ``average_processing_time`` its average over the handlers that are through.
        """
        with self._lock:
            since = self._since
        return ServiceStats(
            id=self._id,
            name=self.name,
            version=self.version,
            started=since,
            endpoints=[self._stats_of(listed) for listed in self._endpoints()],
            metadata=self.metadata,
        )

    def _endpoints(self) -> List[Listed]:
        with self._lock:
            return list(self._listed)

    def _stats_of(self, listed: Listed) -> EndpointStats:
        counts = listed.intake.counts
        with counts.lock:
            stats = EndpointStats(
                name=listed.name,
                subject=listed.intake.subject,
                queue_group=listed.intake.queue,
                num_requests=counts.received,
                num_errors=counts.errors,
                processing_time=counts.nanoseconds,
                average_processing_time=counts.nanoseconds // max(1, counts.handled),
                last_error=counts.last_error,
            )
        if self._stats_handler is not None:
            try:
                data = self._stats_handler(stats)
                json.dumps(data, allow_nan=False)
                stats.data = data
            except BaseException:  # SystemExit too, or nobody would be answered
                logger.exception("the stats_handler of service %r failed on endpoint %r", self.name, listed.name)
        return stats

    def reset(self) -> None:
        """Set the figures of every endpoint back, and ``started`` to now. Requests under way count for neither time."""
        with self._lock:
            self._since = datetime.now(timezone.utc)
            for listed in self._listed:
                listed.intake.counts = Counts()

    def __repr__(self) -> str:
        state = "stopped" if self._closed else ("serving" if self._started else "new")
        return f"<Service {self.name!r} {self.version} {self._id} {state}: {len(self._endpoints())} endpoints>"


def _check_version(version: object) -> None:
    if not isinstance(version, str) or not SEMVER_REGEX.fullmatch(version):
        raise wrong(version, f"version must be a semantic version such as '1.0.0', not {version!r}")
