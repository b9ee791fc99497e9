"""``Message``: the errors of services."""

from __future__ import annotations

from typing import Dict

import pytest

from natsbridge import BusyError, Error, Message, ServiceError


def reply(data: bytes = b"", **headers: str) -> Message:
    return Message("_INBOX.x", data, headers={name.replace("_", "-"): value for name, value in headers.items()})


@pytest.mark.parametrize(
    "headers", [{}, {"Trace": "7"}, {"Status": "100"}, {"nats-service-error": "names are compared exactly, as NATS does"}]
)
def test_what_is_no_error_is_returned(headers: Dict[str, str]) -> None:
    message = Message("_INBOX.x", b"data", headers=headers)
    assert message.raise_for_error() is message


def test_an_error_is_raised_with_what_the_service_said() -> None:
    with pytest.raises(ServiceError, match="404: no such order") as caught:
        reply(b"more", Nats_Service_Error="no such order", Nats_Service_Error_Code="404").raise_for_error()
    assert type(caught.value) is ServiceError
    assert (caught.value.code, caught.value.description, caught.value.data) == (404, "no such order", b"more")
    assert isinstance(caught.value, Error)


@pytest.mark.parametrize("code", ["", "soon", "-1", "4.4", "٤", "9" * 20])
def test_a_code_that_is_no_number_is_500(code: str) -> None:
    with pytest.raises(ServiceError) as caught:
        reply(Nats_Service_Error="x", Nats_Service_Error_Code=code).raise_for_error()
    assert caught.value.code == 500


def test_either_header_makes_it_an_error() -> None:
    with pytest.raises(ServiceError) as caught:
        reply(Nats_Service_Error="x").raise_for_error()
    assert (caught.value.code, caught.value.description) == (500, "x")
    with pytest.raises(ServiceError) as caught:
        reply(Nats_Service_Error_Code="400").raise_for_error()
    assert caught.value.code == 400


def test_a_busy_service_of_ours_is_told_from_one_that_says_503() -> None:
    with pytest.raises(ServiceError) as caught:
        reply(Nats_Service_Error="all are busy", Nats_Service_Error_Code="503").raise_for_error()
    assert not isinstance(caught.value, BusyError)
    with pytest.raises(BusyError, match="all are busy"):
        reply(Nats_Service_Error="all are busy", Nats_Service_Error_Code="503", Natsbridge_Error="busy").raise_for_error()
