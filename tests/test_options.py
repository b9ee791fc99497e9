"""Options are checked when they are given, and what is secret stays secret."""

from __future__ import annotations

import inspect
import ssl
from typing import Any, List

import pytest

from natsbridge import BadSubjectError, OnlineRegistry, Pool, Subscriber, online_clients, options
from natsbridge.options import ConnectOptions, check_servers, redact

# -- servers ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("servers", "urls"),
    [
        ("nats://127.0.0.1:4222", ["nats://127.0.0.1:4222"]),
        ("127.0.0.1:4333", ["nats://127.0.0.1:4333"]),
        ("localhost", ["nats://localhost:4222"]),
        ("nats://localhost", ["nats://localhost:4222"]),
        ("nats://localhost/", ["nats://localhost:4222"]),
        ("tls://localhost", ["tls://localhost:4222"]),
        ("ws://localhost", ["ws://localhost"]),
        ("wss://localhost:443/path", ["wss://localhost:443/path"]),
        ("nats://[::1]:4222", ["nats://[::1]:4222"]),
        ("nats://[::1]", ["nats://[::1]:4222"]),
        ("nats://me:secret@localhost", ["nats://me:secret@localhost:4222"]),
        ("nats://a:1,nats://b:2", ["nats://a:1", "nats://b:2"]),
        ("a:1, b:2", ["nats://a:1", "nats://b:2"]),
        (["nats://a:1", "b:2"], ["nats://a:1", "nats://b:2"]),
        (("nats://a:1",), ["nats://a:1"]),
    ],
)
def test_servers_become_a_list_of_urls(servers: Any, urls: List[str]) -> None:
    assert check_servers(servers) == urls


@pytest.mark.parametrize(
    ("servers", "named"),
    [
        ("", "''"),
        ([], "servers is empty"),
        (["nats://a:1", ""], "''"),
        ("nats://", "nats://"),
        ("nats://:4222", "nats://:4222"),
        ("http://localhost", "http"),
        ("nats:///path", "nats:///path"),
        ("nats://localhost:port", "localhost:port"),
        ("nats://localhost:99999", "localhost:99999"),
        ("nats://local host", "local host"),
        (["nats://localhost\n"], "localhost"),
        ("nats://a:1,,nats://b:2", "''"),
        ("nats://[::1", r"\[::1"),
    ],
)
def test_bad_urls_are_refused_by_name(servers: Any, named: str) -> None:
    with pytest.raises(ValueError, match=named):
        Pool(servers)


@pytest.mark.parametrize("servers", [None, 4222, b"nats://localhost", {"nats://localhost"}, [None], [4222], [b"nats://a"]])
def test_what_is_no_url_is_refused(servers: Any) -> None:
    with pytest.raises(TypeError, match="URL"):
        Pool(servers)


# -- secrets ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("nats://localhost:4222", "nats://localhost:4222"),
        ("nats://me:secret@localhost:4222", "nats://***@localhost:4222"),
        ("nats://token@localhost:4222", "nats://***@localhost:4222"),
        ("me:secret@localhost", "***@localhost"),
        ("nats://me:p@ss@localhost", "nats://***@localhost"),
        ("nats://me:p://ss@localhost", "nats://***@localhost"),
    ],
)
def test_credentials_are_not_shown(url: str, shown: str) -> None:
    assert redact(url) == shown


@pytest.mark.parametrize(
    "url", ["http://me:secret@localhost", "nats://me:secret@", "nats://me:secret@localhost:port", "nats://me:secret@[::1"]
)
def test_errors_do_not_show_credentials(url: str) -> None:
    with pytest.raises(ValueError, match="bad server URL") as caught:
        Pool(url)
    assert "secret" not in str(caught.value)
    assert "secret" not in repr(caught.value)


def test_repr_does_not_show_credentials() -> None:
    pool = Pool(
        "nats://me:sesame1@localhost:1,nats://sesame2@localhost:2",
        user="me",
        password="sesame3",
        token="sesame4",
        nkeys_seed_str="sesame5",
    )
    assert "***@localhost:1" in repr(pool)
    assert "sesame" not in repr(pool)
    assert "sesame" not in repr(pool.stats())
    assert "sesame" not in repr(Subscriber(pool))


def test_the_options_object_does_not_show_credentials() -> None:
    """It appears in tracebacks that show local variables, and in debuggers' logs."""
    shown = repr(
        ConnectOptions(
            "nats://me:sesame1@localhost", user="me", password="sesame2", token="sesame3", nkeys_seed_str="sesame4"
        )
    )
    assert "sesame" not in shown


# -- options for nats-py ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", sorted(options._OWNED))
def test_what_natsbridge_owns_is_refused_by_name(key: str) -> None:
    with pytest.raises(ValueError, match=rf"nats_options\['{key}'\] belongs to "):
        Pool(nats_options={key: None})


@pytest.mark.parametrize("key", [name for name in inspect.signature(Pool).parameters if name in ConnectOptions._declared()])
def test_what_the_pool_takes_itself_is_refused_by_name(key: str) -> None:
    with pytest.raises(ValueError, match=rf"nats_options\['{key}'\]: pass it as Pool\({key}=\.\.\.\)"):
        Pool(nats_options={key: None})


@pytest.mark.parametrize("key", ["max_reconnects", "", "Verbose", 7, None])
def test_unknown_options_are_refused(key: Any) -> None:
    with pytest.raises(ValueError, match="is not an option of nats-py's connect; left are"):
        Pool(nats_options={key: None})


def test_every_option_of_nats_py_is_either_ours_or_passed_on() -> None:
    """A new release of nats-py may add one: then this says so."""
    from nats.aio.client import Client

    theirs = set(inspect.signature(Client.connect).parameters) - {"self"}
    ours = set(ConnectOptions._declared())
    assert theirs == ours | set(options._OWNED) | set(options._FREE)
    assert not ours & set(options._OWNED)
    assert not ours & options._FREE
    assert not set(options._OWNED) & options._FREE


def test_options_for_nats_py_are_passed_on() -> None:
    connect = ConnectOptions("localhost", nats_options={"verbose": True, "dont_randomize": True})
    passed = connect.for_nats()
    assert passed["verbose"] is True
    assert passed["dont_randomize"] is True
    assert passed["max_reconnect_attempts"] == -1
    assert passed["servers"] == ["nats://localhost:4222"]


@pytest.mark.parametrize("bad", [7, "verbose", ["verbose"], [("verbose", True)]])
def test_nats_options_that_are_no_mapping_are_refused(bad: Any) -> None:
    with pytest.raises((TypeError, ValueError), match="nats_options"):
        Pool(nats_options=bad)


# -- everything else --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("size", 0),
        ("size", -1),
        ("timeout", 0),
        ("timeout", -1),
        ("timeout", float("nan")),
        ("timeout", float("inf")),
        ("connect_timeout", 0),
        ("connect_timeout", float("inf")),
        ("reconnect_time_wait", -1),
        ("ping_interval", 0),
        ("max_outstanding_pings", 0),
        ("inbox_prefix", ""),
        ("inbox_prefix", "a b"),
        ("inbox_prefix", "a.*"),
        ("inbox_prefix", "a."),
        ("inbox_prefix", b"a."),
        ("inbox_prefix", "x" * 300),
        ("window", 0),
        ("window_bytes", 0),
        ("probe_interval", 0),
        ("probe_interval", float("inf")),
        ("outbox_bytes", 0),
        ("handler_threads", 0),
    ],
)
def test_values_that_cannot_be_right_are_refused(name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=name):
        Pool(**{name: value})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("size", 1.5),
        ("size", "1"),
        ("size", True),
        ("registry", {}),
        ("name", 7),
        ("timeout", "5"),
        ("timeout", None),
        ("connect_timeout", None),
        ("reconnect_time_wait", "2"),
        ("ping_interval", None),
        ("max_outstanding_pings", 2.0),
        ("inbox_prefix", None),
        ("tls", True),
        ("window", None),
        ("window_bytes", 1.0),
        ("probe_interval", "2"),
        ("outbox_bytes", "8 MiB"),
        ("handler_threads", None),
        ("error_callback", 7),
        ("uvloop", "yes"),
    ],
)
def test_values_of_another_type_are_refused(name: str, value: Any) -> None:
    with pytest.raises(TypeError, match=name):
        Pool(**{name: value})


def test_a_bad_inbox_prefix_is_a_bad_subject() -> None:
    with pytest.raises(BadSubjectError):
        Pool(inbox_prefix="a..b")


@pytest.mark.parametrize(
    ("name", "value", "kind"),
    [
        ("max_workers", 0, ValueError),
        ("max_workers", 1.0, TypeError),
        ("max_queued", -1, ValueError),
        ("max_queued", None, TypeError),
        ("max_detached", -1, ValueError),
        ("registry", "x", TypeError),
    ],
)
def test_options_of_a_subscriber_are_checked(name: str, value: Any, kind: Any) -> None:
    with pytest.raises(kind, match=name):
        Subscriber("localhost", **{name: value})


def test_a_subscriber_checks_its_servers() -> None:
    with pytest.raises(ValueError, match="http"):
        Subscriber("http://localhost")
    with pytest.raises(TypeError, match="URL"):
        Subscriber(7)  # type: ignore[arg-type]


def test_good_values_are_taken() -> None:
    context = ssl.create_default_context()
    registry = OnlineRegistry()
    pool = Pool(
        "tls://localhost", size=3, registry=registry, name="me", tls=context, inbox_prefix="my.inbox", reconnect_time_wait=0
    )
    assert pool.registry is registry
    assert pool.name == "me"
    assert Pool().registry is online_clients


def test_pools_without_a_name_get_different_ones() -> None:
    assert Pool().name != Pool().name


# -- the defaults are part of the interface -----------------------------------------------------------------------------


def test_the_defaults_of_a_pool() -> None:
    parameters = inspect.signature(Pool).parameters
    assert {name: parameter.default for name, parameter in parameters.items()} == {
        "servers": "nats://127.0.0.1:4222",
        "size": 1,
        "registry": None,
        "name": None,
        "timeout": 5.0,
        "connect_timeout": 5.0,
        "reconnect_time_wait": 2.0,
        "ping_interval": 15.0,
        "max_outstanding_pings": 2,
        "user": None,
        "password": None,
        "token": None,
        "user_credentials": None,
        "nkeys_seed": None,
        "nkeys_seed_str": None,
        "signature_cb": None,
        "user_jwt_cb": None,
        "tls": None,
        "tls_hostname": None,
        "tls_handshake_first": False,
        "inbox_prefix": "_INBOX",
        "window": 16_384,
        "window_bytes": 16 * 1024 * 1024,
        "probe_interval": 2.0,
        "outbox_bytes": 8 * 1024 * 1024,
        "handler_threads": 16,
        "error_callback": None,
        "uvloop": None,
        "nats_options": None,
    }
    kinds = {name: parameter.kind for name, parameter in parameters.items() if name != "servers"}
    assert set(kinds.values()) == {inspect.Parameter.KEYWORD_ONLY}


def test_the_defaults_of_a_subscriber() -> None:
    parameters = inspect.signature(Subscriber).parameters
    assert {name: parameter.default for name, parameter in list(parameters.items())[1:]} == {
        "max_workers": 16,
        "max_queued": 16,
        "max_detached": 1024,
        "stall_timeout": 30.0,
        "max_resume": 60.0,
        "registry": None,
    }


def test_the_defaults_of_the_registry() -> None:
    parameters = inspect.signature(OnlineRegistry).parameters
    assert {name: p.default for name, p in parameters.items()} == {"offline_seconds": 60.0, "max_offline": 100_000}


def test_options_and_pool_agree_on_their_defaults() -> None:
    pool = inspect.signature(Pool).parameters
    connect = inspect.signature(ConnectOptions).parameters
    for name in set(pool) & set(connect) - {"servers"}:
        assert pool[name].default == connect[name].default, name


def test_the_prefix_of_inboxes_may_be_bytes_as_in_nats_py() -> None:
    assert Pool(inbox_prefix=b"_INBOX.me").new_inbox().startswith("_INBOX.me.")
