"""Stream handlers that an application names where it defines them, for the worker process that serves them."""

from __future__ import annotations

import inspect
from contextlib import AbstractContextManager
from functools import wraps
from typing import Any, Callable, Iterator, List, NamedTuple, Optional, TypeVar

from .. import Subscriber
from ..options import check_count, check_handler, check_queue, check_subscription

H = TypeVar("H", bound=Callable[..., Any])


class Planned(NamedTuple):
    """One subject to serve."""

    subject: str
    queue: str
    handler: Callable[..., Any]
    max_workers: Optional[int]
    max_queued: Optional[int]

    def __str__(self) -> str:
        return f"{self.subject} (queue group {self.queue})" if self.queue else self.subject


class Handlers:
    """The handlers of one application, in the order in which they were named."""

    def __init__(self) -> None:
        self.planned: List[Planned] = []

    def stream(
        self, subject: str, *, queue: str = "", max_workers: Optional[int] = None, max_queued: Optional[int] = None
    ) -> Callable[[H], H]:
        """Decorator: serve requests on ``subject`` with the function, in the worker process. As ``Subscriber.stream``."""
        check_subscription(subject)
        if queue:
            check_queue(queue)
        for value, name, least in ((max_workers, "max_workers", 1), (max_queued, "max_queued", 0)):
            if value is not None:
                check_count(value, name, least)

        def decorate(handler: H) -> H:
            check_handler(handler, yields=True)
            self.planned.append(Planned(subject, queue, handler, max_workers, max_queued))
            return handler

        return decorate

    def serve_with(self, subscriber: Subscriber, around: Callable[[], AbstractContextManager[Any]]) -> None:
        """Have ``subscriber`` serve them from its ``start`` on; each call runs inside a context of its own."""
        for subject, queue, handler, max_workers, max_queued in self.planned:
            decorate = subscriber.stream(subject, queue=queue, max_workers=max_workers, max_queued=max_queued)
            decorate(_inside(around, handler))


def _inside(around: Callable[[], AbstractContextManager[Any]], handler: Callable[..., Any]) -> Callable[..., Any]:
    """A handler of the same signature and kind. A generator runs on one thread from its beginning to its end."""
    if inspect.isgeneratorfunction(handler):

        @wraps(handler)
        def generator(*arguments: Any) -> Iterator[bytes]:
            with around():
                yield from handler(*arguments)

        return generator

    @wraps(handler)
    def function(*arguments: Any) -> Any:
        with around():
            return handler(*arguments)

    return function
