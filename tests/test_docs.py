"""The documentation says what the code does: its programs run, its tables are the code's, its links lead somewhere."""

from __future__ import annotations

import ast
import inspect
import itertools
import os
import re
import signal
import subprocess
import sys
from collections import deque
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, Optional, Set, Tuple, Type

import pytest
from faults.table import TABLE as ROWS
from faults.table import documented, documented_elsewhere
from procs import LONG, PACKAGE_ROOT, WaitFor, posix_only

import natsbridge
from natsbridge import (
    ClientOfflineError,
    Error,
    JetStream,
    JetStreamMessage,
    KeyValue,
    KeyWatcher,
    Message,
    NoRespondersError,
    ObjectStore,
    OnlineRegistry,
    Pool,
    PullSubscription,
    Replies,
    ResponseSender,
    ResponseStream,
    Service,
    ServiceClient,
    ServiceError,
    StreamRequest,
    Subscriber,
    Subscription,
    _incoming,
    _link,
    _outbox,
    _outgoing,
    _pace,
    _sink,
    _source,
    _window,
    _wire,
)
from natsbridge._incoming import Incoming
from natsbridge._outgoing import Outgoing
from natsbridge._sink import OFFLINE_REASONS
from natsbridge.contrib._client import RequestOptions
from natsbridge.server import EmbeddedServer

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "natsbridge"
README, GUIDE = ROOT / "README.md", ROOT / "docs" / "guide.md"
FAULTS = ROOT / "docs" / "faults.md"
PROTOCOL, DESIGN = ROOT / "docs" / "protocol.md", ROOT / "docs" / "design.md"
PAGES = [README, *sorted((ROOT / "docs").glob("*.md")), *sorted(ROOT.glob("C*.md")), *sorted(ROOT.glob("benchmarks/*.md"))]

QUICK_START = (
    "python3 -m venv .venv && .venv/bin/pip install '.[demo]' && .venv/bin/natsbridge demo",
    "python3 -m venv .venv && .venv/bin/pip install tox && .venv/bin/tox",
)
NOTHING = "–"
DEFAULT_URL = "nats://127.0.0.1:4222"

Row = List[str]


# -- reading Markdown -------------------------------------------------------------------------------------------------


def blocks(page: Path, language: str) -> List[str]:
    """The fenced code blocks of a language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", page.read_text("utf-8"), re.MULTILINE | re.DOTALL)


def block_with(page: Path, language: str, text: str) -> str:
    (found,) = [block for block in blocks(page, language) if text in block]
    return found


def table(page: Path, name: str) -> Tuple[Row, List[Row]]:
    """Head and rows of the table behind the comment ``<!-- name -->``."""
    _, mark, rest = page.read_text("utf-8").partition(f"<!-- {name} -->\n\n")
    assert mark, f"{page.name} has no table {name!r}"
    lines = list(itertools.takewhile(lambda line: line.startswith("|"), rest.splitlines()))
    head, _, *rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    assert rows
    assert all(len(row) == len(head) for row in rows), "a row has more or fewer cells than the head"
    return head, rows


def code_in(cell: str) -> List[str]:
    return re.findall(r"`([^`]+)`", cell)


def first_words(page: Path, name: str) -> List[str]:
    """What is in code type in the first column."""
    return [code_in(row[0])[0] for row in table(page, name)[1]]


def anchors(page: Path) -> Set[str]:
    """The names by which the headings of a page are linked to, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", re.sub(r"^```.*?^```$", "", page.read_text("utf-8"), flags=re.M | re.S), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


# -- README -----------------------------------------------------------------------------------------------------------


def test_the_quick_start_is_two_commands() -> None:
    quick_start = README.read_text("utf-8").partition("## Quick start")[2].partition("\n## ")[0]
    assert tuple(re.findall(r"^```sh\n(.*)\n```$", quick_start, re.MULTILINE)) == QUICK_START


@pytest.mark.process
@posix_only
def test_the_readmes_worker(server: EmbeddedServer, pool: Pool, tmp_path: Path, wait_for: WaitFor) -> None:
    """The worker as it stands there, but for the server's URL: it streams, stops, and ends with code 0 on SIGTERM."""
    code = block_with(README, "python", "# worker.py")
    assert DEFAULT_URL in code
    program, output = tmp_path / "worker.py", tmp_path / "output.txt"
    program.write_text(code.replace(DEFAULT_URL, server.url), "utf-8")
    with output.open("wb") as file:
        worker = subprocess.Popen(
            [sys.executable, "-W", "error", str(program)],
            stdout=file,
            stderr=subprocess.STDOUT,
            env={**os.environ, "PYTHONPATH": PACKAGE_ROOT},
        )
    try:

        def answer() -> Optional[List[bytes]]:
            assert worker.poll() is None, output.read_text()
            try:
                with pool.stream("long.process", b"two words", timeout=LONG) as stream:
                    return list(stream)
            except NoRespondersError:  # it is not there yet
                return None

        assert wait_for(answer, what="the worker to serve") == [b"two", b"words"]
        with pool.stream("long.process", b"endless " * 1000, timeout=LONG) as stream:
            assert next(stream) == b"endless"
        worker.send_signal(signal.SIGTERM)  # it could not end in time if its loop went on
        assert worker.wait(LONG) == 0
    finally:
        worker.kill()
        worker.wait(LONG)
    assert output.read_text() == ""


def test_the_readmes_three_lines(server: EmbeddedServer, subscriber: Subscriber, unique: str, wait_for: WaitFor) -> None:
    """They run as they stand there, but for the subject."""
    worker, gateway, anywhere = block_with(README, "python", "stream_request_with_client").splitlines()
    reasons: List[str] = []

    def endless(request: StreamRequest, sender: ResponseSender) -> None:
        try:
            while True:
                sender.send(b"chunk")
        except ClientOfflineError as gone:
            reasons.append(gone.reason)
            raise

    exec(worker, {"subscriber": subscriber})
    subscriber.stream_subscribe_handler(unique, endless)
    received: List[Message] = []

    def response_handler(message: Message) -> None:
        received.append(message)
        if len(received) == 3:
            exec(anywhere, {"natsbridge": natsbridge, "connect_id": unique})

    with Pool(server.url) as pool, pytest.raises(ClientOfflineError):
        names = {"pool": pool, "connect_id": unique, "response_handler": response_handler}
        exec(gateway.replace("long.process", unique), names)
    wait_for(lambda: reasons, what="the worker to stop")
    natsbridge.mark_client_online(unique)


# -- code, links ------------------------------------------------------------------------------------------------------

CODE = [(page, block) for page in PAGES for block in blocks(page, "python")]
KNOWN: Dict[str, Type[Any]] = {
    "jobs": PullSubscription,
    "js": JetStream,
    "kv": KeyValue,
    "message": JetStreamMessage,
    "pool": Pool,
    "gateway": Pool,
    "worker": Pool,
    "nats_pool": Pool,
    "reply": Message,
    "registry": OnlineRegistry,
    "replies": Replies,
    "sender": ResponseSender,
    "server": EmbeddedServer,
    "store": ObjectStore,
    "service": Service,
    "client": ServiceClient,
    "stream": ResponseStream,
    "subscriber": Subscriber,
    "subscription": Subscription,
    "watcher": KeyWatcher,
}


def imported(tree: ast.AST) -> Dict[str, Any]:
    """What the code imports from natsbridge; fails for a name that is not there.

    What needs a framework that is not installed is left out: ``tox -e web`` has them all.
    """
    found: Dict[str, Any] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "natsbridge":
            framework = str(node.module).rpartition(".")[2]
            if framework in ("flask", "django") and find_spec(framework) is None:
                continue
            module = __import__(str(node.module), fromlist=["*"])
            found.update({name.name: getattr(module, name.name) for name in node.names})
    return found


def called(node: ast.Call, names: Dict[str, Any]) -> Optional[Callable[..., Any]]:
    """The function of natsbridge that is called, as far as its name tells; fails for a method that is not there."""
    function = node.func
    if isinstance(function, ast.Name):
        return names.get(function.id)
    if isinstance(function, ast.Attribute) and isinstance(function.value, ast.Name):
        owner = function.value.id
        if owner == "natsbridge":
            return getattr(natsbridge, function.attr)  # type: ignore[no-any-return]
        if owner in KNOWN:
            return getattr(KNOWN[owner], function.attr)  # type: ignore[no-any-return]
    return None


@pytest.mark.parametrize(("page", "code"), CODE, ids=[f"{page.stem}-{number}" for number, (page, _) in enumerate(CODE)])
def test_code_calls_what_there_is(page: Path, code: str) -> None:
    tree = ast.parse(code, feature_version=(3, 8))
    names = imported(tree)
    for node in ast.walk(tree):
        function = called(node, names) if isinstance(node, ast.Call) else None
        if isinstance(node, ast.Call) and function is not None:
            parameters = inspect.signature(function).parameters
            known, more = set(parameters), [p for p in parameters.values() if p.kind is p.VAR_KEYWORD]
            if more and "RequestOptions" not in str(more[0].annotation):
                continue
            known |= set(RequestOptions.__annotations__) if more else set()
            assert {k.arg for k in node.keywords} <= known, f"{ast.dump(node)} in {page.name}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_links_lead_somewhere(page: Path) -> None:
    text = re.sub(r"^```.*?^```$", "", page.read_text("utf-8"), flags=re.MULTILINE | re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if "://" in target:
            continue
        path, _, anchor = target.partition("#")
        there = (page.parent / path).resolve() if path else page
        assert there.exists(), f"{page.name} links to {target}"
        if anchor:
            assert anchor in anchors(there), f"{page.name} links to {target}"


# -- the guide --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "function", "elsewhere"),
    [
        ("Pool.__init__", Pool.__init__, ()),
        ("Subscriber.__init__", Subscriber.__init__, ("pool_or_servers",)),
        ("Pool.stream", Pool.stream, ("subject",)),
        ("Service.__init__", Service.__init__, ("pool", "name", "version")),
    ],
)
def test_the_guide_has_every_option_and_its_default(
    name: str, function: Callable[..., Any], elsewhere: Tuple[str, ...]
) -> None:
    parameters = [p for p in inspect.signature(function).parameters.values() if p.name not in ("self", *elsewhere)]
    rows = table(GUIDE, f"options: {name}")[1]
    told = {code_in(row[0])[0]: ast.literal_eval(code_in(row[1])[0]) for row in rows}
    assert told == {p.name: p.default for p in parameters}
    assert len(rows) == len(told)


def test_the_guide_has_every_exception() -> None:
    public = {name for name in natsbridge.__all__ if inspect.isclass(getattr(natsbridge, name))}
    exceptions = {name for name in public if issubclass(getattr(natsbridge, name), Error)}
    assert sorted(first_words(GUIDE, "errors")) == sorted(exceptions)
    for name, row in zip(first_words(GUIDE, "errors"), table(GUIDE, "errors")[1]):
        kind = getattr(natsbridge, name)
        for also in (ValueError, TimeoutError):
            told = f"also a `{also.__name__}`" in row[1]
            assert told == (issubclass(kind, also) and kind is not also), f"{name} and {also.__name__}"


def test_the_guide_has_every_reason() -> None:
    assert sorted(first_words(GUIDE, "reasons: offline")) == sorted(OFFLINE_REASONS)
    documented = re.findall(r"``(\w+)``", ResponseStream.end_reason.__doc__ or "")
    assert sorted(first_words(GUIDE, "reasons: end")) == sorted(documented)


def test_the_guides_service(pool: Pool, worker_pool: Pool, capsys: pytest.CaptureFixture[str]) -> None:
    """It serves as it stands there, and so do those who ask it and look at it."""
    served: Dict[str, Any] = {"pool": worker_pool, "__name__": "worker"}
    exec(block_with(GUIDE, "python", "add_service"), served)
    try:
        asks = [block for block in blocks(GUIDE, "python") if "raise_for_error" in block]
        looks = block_with(GUIDE, "python", "ServiceClient(pool)")
        for code in (*asks, looks):
            exec(code, {"pool": pool})
        assert list(pool.stream("orders.export")) == [b"7 12"]
        with pytest.raises(ServiceError, match="404: no such order"):
            pool.request("orders.find", b"8").raise_for_error()
        service: Service = served["service"]
        assert capsys.readouterr().out.splitlines() == [
            *[repr(b'{"total": 12}')] * len(asks),
            f"{service.id} 1.0.0",
            f"orders orders.find {len(asks)} 0",
            "orders orders.export 0 0",
        ]
    finally:
        served["service"].stop()


@pytest.mark.process
def test_the_guides_test_passes(tmp_path: Path) -> None:
    for name in ("conftest.py", "test_worker.py"):
        (tmp_path / name).write_text(block_with(GUIDE, "python", f"# {name}\n"), "utf-8")
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-W", "error", str(tmp_path)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env={**os.environ, "PYTHONPATH": PACKAGE_ROOT},
        timeout=2 * LONG,
        check=False,
    )
    assert run.returncode == 0, run.stdout.decode()
    assert b"1 passed" in run.stdout


def test_the_guides_jetstream_works(make_nats_server: Any, capsys: pytest.CaptureFixture[str]) -> None:
    """The section's programs, as they stand there, one after the other."""
    with Pool(make_nats_server(jetstream=True).url) as pool:
        names: Dict[str, Any] = {"pool": pool}
        for text in ("no stream stores", "acks = js.publish_many", "jobs = js.pull_subscribe", "js.ordered_consumer"):
            exec(block_with(GUIDE, "python", text), names)
        assert [ack.seq for ack in names["acks"]] == list(range(2, 1002))
        assert js_acknowledged(names["js"]) == 2001
    told = capsys.readouterr().out
    assert "ORDERS 1" in told
    assert "no stream stores order.new" in told
    assert told.count("b'999'") == 2


def js_acknowledged(js: JetStream) -> int:
    floor = js.consumer_info("ORDERS", "billing").ack_floor
    assert floor is not None
    return floor.stream_seq


def test_the_guides_stores_work(pool: Pool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wait_for: WaitFor) -> None:
    """The sections on buckets and stores, as they stand there, one after the other."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "report.pdf").write_bytes(b"%PDF")
    names: Dict[str, Any] = {"pool": pool}
    try:
        for text in ("create_key_value", "def on_change", "create_object_store"):
            exec(block_with(GUIDE, "python", text), names)
        names["kv"].put("size", b"7")
        wait_for(lambda: names["settings"] == {"color": b"blue", "size": b"7"}, what="the settings")
        names["kv"].delete("size")
        wait_for(lambda: names["settings"] == {"color": b"blue"}, what="the deletion")
        assert (tmp_path / "copy.pdf").read_bytes() == b"%PDF"
    finally:
        names["js"].delete_key_value("settings")
        names["js"].delete_object_store("files")


def test_the_guides_permissions_are_enough(wait_for: WaitFor) -> None:
    """With the guide's configuration and pools: streams, their cancellation, presence, and nothing is refused."""
    config, code = block_with(GUIDE, "conf", "authorization"), block_with(GUIDE, "python", "inbox_prefix=")
    refused: List[Exception] = []
    with EmbeddedServer(config_text=config) as server:
        names: Dict[str, Any] = {
            "Pool": lambda url, **options: Pool(
                server.url, error_callback=refused.append, registry=OnlineRegistry(), window=4, **options
            )
        }
        exec(code, names)
        worker: Pool = names["worker"]
        gateway: Pool = names["gateway"]
        reasons: List[str] = []

        def count(request: StreamRequest, sender: ResponseSender) -> None:
            try:
                for number in itertools.count() if request.connect_id else range(100):
                    sender.send(b"%d" % number)
            except ClientOfflineError as gone:
                reasons.append(gone.reason)
                raise

        with worker, gateway, Subscriber(worker) as subscriber:
            subscriber.stream_queue_subscribe_handler("long.process", "workers", count)
            subscriber.start_client_offline_listener()
            with gateway.stream("long.process", timeout=LONG) as stream:
                assert len(list(stream)) == 100

            with gateway.stream("long.process", connect_id="anna", timeout=LONG) as stream:
                assert next(stream) == b"0"
            wait_for(lambda: reasons == ["cancelled"], what="the worker to stop")

            gateway.mark_client_online("bert")
            with gateway.stream("long.process", connect_id="bert", timeout=LONG) as stream:
                next(stream)
                with Pool(
                    server.url, user="gateway", password="secret", inbox_prefix="_INBOX_gateway", registry=OnlineRegistry()
                ) as other:
                    other.mark_client_offline("bert")
                with pytest.raises(ClientOfflineError):
                    list(stream)
            wait_for(lambda: reasons == ["cancelled", "offline"], what="the worker to stop")
            for pool in (worker, gateway):
                pool.flush()
    assert refused == []


# -- the protocol -----------------------------------------------------------------------------------------------------

NATIVE_HEADERS = {_wire.STREAM: _wire.encode_params(_wire.StreamParams(10, 1000, resume_ms=5000))}
CONTROL = f"_INBOX.{'0' * 32}.{'1' * 24}"


@pytest.mark.parametrize(
    ("name", "actions", "absent"),
    [("_outgoing._TABLE", _outgoing._TABLE, None), ("_incoming._TABLE", _incoming._TABLE, Incoming._ignore)],
)
def test_the_protocols_tables_are_the_codes(
    name: str, actions: Dict[Tuple[str, str], Callable[..., Any]], absent: Optional[Callable[..., Any]]
) -> None:
    """``absent``: the action of a cell that the code's table does not have."""
    head, rows = table(PROTOCOL, name)
    states = [code_in(cell)[0] for cell in head[1:]]
    told = {(state, code_in(row[0])[0]): code_in(cell)[0] for row in rows for state, cell in zip(states, row[1:])}
    assert set(actions) <= set(told)
    assert told == {key: getattr(actions.get(key, absent), "__name__", None) for key in told}
    assert len(rows) * len(states) == len(told)


def test_the_protocols_tables_have_every_state_and_message() -> None:
    def told(name: str) -> Tuple[Set[str], Set[str]]:
        head, _ = table(PROTOCOL, name)
        return {code_in(cell)[0] for cell in head[1:]}, set(first_words(PROTOCOL, name))

    kinds = {_wire.ACCEPTED, _wire.CHUNK, _wire.BATCH, _wire.PROBE, _wire.END}
    verbs = {_wire.ACK, _wire.NAK, _wire.CANCEL}
    assert told("_incoming._TABLE") == (
        {_incoming.WAITING, _incoming.NATIVE, _incoming.PLAIN, _incoming.DONE},
        {*kinds, "unnumbered", "pub_ack"},
    )
    assert told("_outgoing._TABLE") == ({_outgoing.RUNNING, _outgoing.ENDING, _outgoing.DONE}, verbs)
    # Each action is explained below its table.
    for name, actions in (("_outgoing._TABLE", _outgoing._TABLE), ("_incoming._TABLE", _incoming._TABLE)):
        after = PROTOCOL.read_text("utf-8").partition(f"<!-- {name} -->")[2]
        for action in actions.values():
            assert f"\n- `{action.__name__}`" in after


def an_outgoing(state: str) -> Outgoing:
    """The responder's end in that state, with something to write if it can have that."""
    end = Outgoing(native=True, window=10, max_bytes=1000, probe_interval=2.0, resume=5.0)
    end.push(b"chunk", 0.0)
    if state != _outgoing.RUNNING:
        end.end()
    if state == _outgoing.DONE:
        end.give_up("offline")
    assert end.state == state
    return end


def an_incoming(state: str) -> Incoming:
    end = Incoming(window=10, max_bytes=1000, probe_interval=2.0, resume=5.0)
    if state in (_incoming.NATIVE, _incoming.DONE):
        end.on_message(b"", f"{CONTROL}.a0", NATIVE_HEADERS, 0.0, 0.0)
    if state == _incoming.PLAIN:
        end.on_message(b"chunk", "", None, 0.0, 0.0)
    if state == _incoming.DONE:
        end.stop("cancelled")
    assert end.state == state
    return end


def read_large_and_small(end: Incoming) -> None:
    """A chunk that nearly fills the window, and one that is not acknowledged yet."""
    for number, size in ((1, 900), (2, 150)):
        end.on_message(b"x" * size, f"{CONTROL}.d{number}", None, 0.0, 0.0)
        if end.state == _incoming.NATIVE:
            end.take(0.0)


# What is done to an end for a row of the tables of other events: first whatever makes the event possible, then the event.
Steps = Tuple[Callable[[Any], object], ...]
OUTGOING_EVENTS: Dict[str, Steps] = {
    "end": (lambda end: end.end(),),
    "take": (lambda end: end.take(1000, 1.0),),
    "give_up": (lambda end: end.give_up("offline"),),
    "on_no_responders": (lambda end: end.on_no_responders(0, 1.0, 1.0),),
    "on_confirm": (lambda end: end.on_no_responders(0, 1.0, 1.0), lambda end: end.on_confirm(1.0)),
    "on_tick": (lambda end: end.on_tick(100.0),),
    "on_disconnect": (lambda end: end.on_disconnect(1.0),),
    "on_reconnect": (lambda end: end.on_disconnect(1.0), lambda end: end.on_reconnect(2.0)),
}
INCOMING_EVENTS: Dict[str, Steps] = {
    "stop": (lambda end: end.stop("cancelled"),),
    "503": (lambda end: end.on_message(b"", "", {_wire.STATUS: "503"}, 1.0, 1.0),),
    "another status": (lambda end: end.on_message(b"", "", {_wire.STATUS: "408"}, 1.0, 1.0),),
    "on_confirm": (
        lambda end: end.state == _incoming.NATIVE and end.on_message(b"", "", {_wire.STATUS: "503"}, 1.0, 1.0),
        lambda end: end.on_confirm(1.0),
    ),
    "on_wait": (read_large_and_small, lambda end: end.on_wait(0.0)),
    "on_tick": (lambda end: end.on_tick(100.0),),
    "on_disconnect": (lambda end: end.on_disconnect(True, 1.0),),
    "on_reconnect": (
        lambda end: end.state == _incoming.NATIVE and end.on_disconnect(True, 1.0),
        lambda end: end.on_reconnect(2.0),
    ),
}


def does_something(end: Any, steps: Steps) -> bool:
    *preparations, event = steps
    for step in preparations:
        step(end)
    unread = {"_down_since"} if end.state == "done" else set()  # may be set then, but nothing looks at it any more

    def snapshot() -> Dict[str, Any]:
        state = {name: value for name, value in vars(end).items() if name not in unread}
        return {name: list(value) if isinstance(value, deque) else value for name, value in state.items()}

    before = snapshot()
    said = event(end)
    if isinstance(said, tuple):  # what is said, and whether a confirmation is due
        said = any(said)
    return bool(said) or snapshot() != before


def other_events() -> Iterator[Any]:
    for name, make, events in (("Outgoing", an_outgoing, OUTGOING_EVENTS), ("Incoming", an_incoming, INCOMING_EVENTS)):
        head, rows = table(PROTOCOL, name)
        for row in rows:
            method = code_in(row[0])[0]
            key = next((event for event in events if row[0].startswith(event)), method)
            if key == "take" and name == "Incoming":  # taking from an empty buffer is the caller's mistake in any state
                continue
            for state, cell in zip((code_in(cell)[0] for cell in head[1:]), row[1:]):
                yield pytest.param(make, state, events.get(key), cell, id=f"{name}-{key}-{state}")


@pytest.mark.parametrize(("make", "state", "steps", "cell"), list(other_events()))
def test_an_empty_cell_of_the_protocol_is_an_event_without_effect(
    make: Callable[[str], Any], state: str, steps: Optional[Steps], cell: str
) -> None:
    assert steps is not None, "the table has an event that this test does not know"
    assert does_something(make(state), steps) == (cell != NOTHING)


def test_the_protocol_has_every_event() -> None:
    for name, kind, through_the_table in (("Outgoing", Outgoing, {"on_control"}), ("Incoming", Incoming, set())):
        events = {method for method in vars(kind) if method.startswith("on_")} - through_the_table
        told = [code_in(row[0])[0] for row in table(PROTOCOL, name)[1]]
        assert events <= set(told)
        assert all(callable(getattr(kind, method)) for method in told)


def test_the_protocol_has_the_words_of_the_librarys_ends() -> None:
    text = PROTOCOL.read_text("utf-8")
    rows = re.findall(r"^\| `(\w+)` \| (\d{3}) \|", text, re.MULTILINE)
    assert {word: int(code) for word, code in rows} == {word: code for word, (code, _) in _wire.LIBRARY_ENDS.items()}


def test_the_protocol_has_the_constants() -> None:
    modules = {
        module.__name__.rpartition(".")[2]: module
        for module in (_incoming, _link, _outbox, _outgoing, _pace, _sink, _source, _window, _wire)
    }
    text = PROTOCOL.read_text("utf-8").partition("## 15. Constants")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| .* \| (?:every )?([\d.]+)(?: s)? \| `(\w+)\.(\w+)` \|$", text, re.MULTILINE)
    assert len(rows) == text.count("\n| ") - 2
    for value, module, name in rows:
        assert float(value) == getattr(modules[module], name), name


def test_the_protocol_has_every_parameter() -> None:
    text = PROTOCOL.read_text("utf-8").partition("## 3. The request")[2].partition("| key |")[2].partition("\n\n")[0]
    told = re.findall(r"^\| `(\w+)` \|", text, re.MULTILINE)
    everything = _wire.StreamParams(**{field: 1 for field in _wire.StreamParams._fields if field != "lease"}, lease="l")
    assert sorted(told) == sorted(re.findall(r"(\w+)=", _wire.encode_params(everything)))


def test_the_protocols_examples_can_be_read() -> None:
    text = PROTOCOL.read_text("utf-8")
    (header,) = re.findall(r"^ {4}Natsbridge-Stream: (.*)$", text, re.MULTILINE)
    params = _wire.parse_params(header)
    assert params is not None
    assert _wire.encode_params(params) == header
    (payload,) = blocks(PROTOCOL, "json")
    announcement = _wire.parse_announcement(payload.encode())
    assert announcement is not None
    assert _wire.encode_announcement(announcement) == payload.strip().encode()


# -- faults -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "text"), [("faults", documented()), ("elsewhere", documented_elsewhere())])
def test_the_tables_of_faults_are_those_that_are_played(name: str, text: str) -> None:
    """``python -m faults.table`` in ``tests`` prints them."""
    assert f"<!-- {name} -->\n\n{text}\n" in FAULTS.read_text("utf-8")


def test_every_failure_is_shown_by_tests_that_are_there() -> None:
    failures = [row[1] for row in table(FAULTS, "failures")[1]]
    assert len(failures) == 10
    named = [re.findall(r'"([^"]+)"', cell) for cell in failures]
    faults = {row.fault for row in ROWS}
    assert {fault for faults_named in named for fault in faults_named} <= faults
    for cell, faults_named in zip(failures, named):
        files = code_in(cell)
        assert faults_named or files
        assert all((ROOT / file).is_file() for file in files), cell


# -- the design -------------------------------------------------------------------------------------------------------


def imports(path: Path) -> Set[Path]:
    """The modules of natsbridge that a module imports when it runs (what is for type checkers alone is left out)."""
    tree = ast.parse(path.read_text("utf-8"))
    for_types = {
        inner
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"
        for inner in ast.walk(node)
    }
    found: Set[Path] = set()
    for node in ast.walk(tree):
        if not isinstance(node, ast.ImportFrom) or not node.level or node in for_types:
            continue
        package = path.parents[node.level - 1]
        if node.module:
            package = package.joinpath(*node.module.split("."))
        for name in node.names:
            candidates = (package / f"{name.name}.py", package.with_suffix(".py"), package / "__init__.py")
            found.add(next(candidate for candidate in candidates if candidate.exists()))
    return found


def test_the_designs_modules_are_the_modules() -> None:
    told = [code_in(row[1])[0] for row in table(DESIGN, "modules")[1]]
    there = [str(path.relative_to(PACKAGE)) for path in PACKAGE.rglob("*.py")]
    assert sorted(told) == sorted(there)


def test_imports_go_up_in_the_designs_table() -> None:
    layers = {PACKAGE / code_in(row[1])[0]: int(row[0]) for row in table(DESIGN, "modules")[1]}
    wrong = [
        f"{path.name} (layer {layer}) imports {other.name} (layer {layers.get(other)})"
        for path, layer in layers.items()
        if path.exists()
        for other in imports(path)
        if layers.get(other, layer) >= layer
    ]
    assert wrong == []
