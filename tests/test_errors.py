"""The exceptions: one root, facts that survive pickling, one readable sentence each."""

from __future__ import annotations

import copy
import inspect
import pickle
from typing import Any, Dict, List, Tuple, Type

import nats.errors
import nats.js.errors
import pytest

import natsbridge
from natsbridge import errors
from natsbridge.errors import NatsBridgeError

# One of each class, and the facts that it must carry. Whoever adds a class has to add it here.
SAMPLES: List[Tuple[NatsBridgeError, Dict[str, Any]]] = [
    (errors.NatsBridgeError("something failed"), {"message": "something failed"}),
    (errors.ClientOfflineError("client-7", "offline"), {"connect_id": "client-7", "reason": "offline"}),
    (errors.ClientOfflineError(None, "cancelled"), {"connect_id": None, "reason": "cancelled"}),
    (errors.ServiceError(409, "taken"), {"code": 409, "description": "taken"}),
    (errors.StreamError(418, "teapot"), {"code": 418, "description": "teapot"}),
    (errors.ResponderLostError("the responder is gone"), {"message": "the responder is gone"}),
    (errors.StreamGapError(3, 5), {"expected": 3, "got": 5}),
    (errors.BusyError("all are busy"), {"message": "all are busy", "description": "all are busy"}),
    (errors.NoRespondersError("a.b"), {"subject": "a.b"}),
    (errors.NoStreamResponseError("a.b"), {"subject": "a.b"}),
    (errors.RequestTimeoutError("no reply came"), {"message": "no reply came"}),
    (errors.PublishManyError([None], {0: errors.ClosedError("it is closed")}), {}),
    (errors.FetchTimeoutError("no message came"), {"message": "no message came"}),
    (errors.ConnectError("no server"), {"message": "no server"}),
    (errors.DisconnectedError("it broke"), {"message": "it broke"}),
    (errors.ClosedError("it is closed"), {"message": "it is closed"}),
    (errors.ForkedError("of the parent"), {"message": "of the parent"}),
    (errors.LoopThreadError("on the loop"), {"message": "on the loop"}),
    (errors.PermissionDeniedError("not allowed"), {"message": "not allowed"}),
    (errors.BadSubjectError("bad subject"), {"message": "bad subject"}),
    (errors.BadHeaderError("bad header", "X"), {"message": "bad header", "key": "X"}),
    (errors.MaxPayloadError(2000, 1000), {"size": 2000, "limit": 1000, "subject": None}),
    (errors.MaxPayloadError(2000, 1000, "a.b"), {"size": 2000, "limit": 1000, "subject": "a.b"}),
    (errors.SlowConsumerError("a.b", "3 so far"), {"subject": "a.b", "detail": "3 so far"}),
    (errors.ServerError("no nats-server"), {"message": "no nats-server"}),
]
samples = pytest.mark.parametrize(("error", "facts"), SAMPLES, ids=[type(error).__name__ for error, _ in SAMPLES])

CLASSES = [value for value in vars(errors).values() if inspect.isclass(value) and issubclass(value, NatsBridgeError)]


def test_there_is_a_sample_of_every_class() -> None:
    assert {type(error) for error, _ in SAMPLES} == set(CLASSES)
    assert {cls.__name__ for cls in CLASSES} | {"Error"} == set(errors.__all__)


@samples
def test_facts_are_attributes(error: NatsBridgeError, facts: Dict[str, Any]) -> None:
    for name, value in facts.items():
        assert getattr(error, name) == value


@samples
@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_facts_survive_pickling(error: NatsBridgeError, facts: Dict[str, Any], protocol: int) -> None:
    again = pickle.loads(pickle.dumps(error, protocol))
    assert type(again) is type(error)
    assert str(again) == str(error)
    for name, value in facts.items():
        assert getattr(again, name) == value


@samples
def test_facts_survive_copying(error: NatsBridgeError, facts: Dict[str, Any]) -> None:
    for again in (copy.copy(error), copy.deepcopy(error)):
        assert type(again) is type(error)
        assert str(again) == str(error)


@samples
def test_the_text_is_one_plain_sentence(error: NatsBridgeError, facts: Dict[str, Any]) -> None:
    text = str(error)
    assert text
    assert "\n" not in text
    assert not text.startswith(("[", "(", "nats:"))
    assert not text.endswith(".")
    for name, value in facts.items():
        if value is not None and name not in ("message", "key"):
            assert str(value) in text
    assert type(error).__name__ in repr(error)


@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)
def test_one_root_catches_all(cls: Type[BaseException]) -> None:
    assert issubclass(cls, errors.Error)
    assert errors.Error is nats.errors.Error is natsbridge.Error
    assert issubclass(cls, NatsBridgeError)
    assert issubclass(cls, Exception)


@pytest.mark.parametrize(
    ("cls", "also"),
    [
        (errors.NoRespondersError, nats.errors.NoRespondersError),
        (errors.RequestTimeoutError, nats.errors.TimeoutError),
        (errors.RequestTimeoutError, TimeoutError),
        (errors.FetchTimeoutError, nats.js.errors.FetchTimeoutError),
        (errors.FetchTimeoutError, errors.RequestTimeoutError),
        (errors.ConnectError, nats.errors.NoServersError),
        (errors.DisconnectedError, nats.errors.StaleConnectionError),
        (errors.ClosedError, nats.errors.ConnectionClosedError),
        (errors.LoopThreadError, RuntimeError),
        (errors.BadSubjectError, nats.errors.BadSubjectError),
        (errors.BadSubjectError, ValueError),
        (errors.MaxPayloadError, nats.errors.MaxPayloadError),
        (errors.MaxPayloadError, ValueError),
        (errors.BadHeaderError, nats.errors.BadHeaderError),
        (errors.BadHeaderError, ValueError),
    ],
    ids=lambda cls: f"{cls.__module__}.{cls.__qualname__}",
)
def test_who_catches_the_class_of_nats_py_or_python_goes_on_doing_so(
    cls: Type[BaseException], also: Type[BaseException]
) -> None:
    assert issubclass(cls, also)


def test_streams_and_busy_workers_fail_as_services_do() -> None:
    assert issubclass(errors.StreamError, errors.ServiceError)
    assert issubclass(errors.BusyError, errors.ServiceError)
    busy = pickle.loads(pickle.dumps(errors.BusyError("all are busy")))
    assert (busy.code, busy.description, busy.data) == (503, "all are busy", b"")


def test_the_payload_of_a_services_error_survives_pickling() -> None:
    again = pickle.loads(pickle.dumps(errors.ServiceError(409, "taken", b"{}")))
    assert (again.code, again.description, again.data, again.received) == (409, "taken", b"{}", False)
    assert pickle.loads(pickle.dumps(again.as_received())).received


def test_a_timeout_prints_plain_text() -> None:
    """A built-in TimeoutError given two arguments takes the first for an errno, and prints it."""
    error = errors.RequestTimeoutError("no reply came within 5 s")
    assert str(error) == "no reply came within 5 s"
    assert "Errno" not in repr(error)
    assert error.errno is None
    with pytest.raises(TimeoutError, match=r"^no reply came within 5 s$"):
        raise error


def test_the_classes_say_where_they_are_to_be_found() -> None:
    for cls in CLASSES:
        assert getattr(natsbridge, cls.__name__) is cls
