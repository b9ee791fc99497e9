"""Where the two ends of a stream may be."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Callable, Dict, NamedTuple

from faults.table import LATE, NEVER, PROMPT

from .servers import ACCOUNTS, as_user, start, start_cluster, start_gateways, start_leaf


class Ends(NamedTuple):
    """The URLs to which they connect."""

    requester: str
    worker: str


class Site(NamedTuple):
    """How its servers are started, and when they say 503 of an end that is gone."""

    start: Callable[[ExitStack], Ends]
    says_503: str


def in_a_cluster(stack: ExitStack) -> Ends:
    nodes = start_cluster(stack)
    return Ends(nodes[0].url, nodes[1].url)


def requester_on_a_leaf(stack: ExitStack) -> Ends:
    hub, leaf = start_leaf(stack)
    return Ends(leaf.url, hub.url)


def worker_on_a_leaf(stack: ExitStack) -> Ends:
    hub, leaf = start_leaf(stack)
    return Ends(hub.url, leaf.url)


def across_gateways(stack: ExitStack) -> Ends:
    east, west = start_gateways(stack)
    return Ends(east[0].url, west[-1].url)


def across_accounts(stack: ExitStack) -> Ends:
    server = start(stack, ACCOUNTS)
    return Ends(as_user(server, "ASKING"), as_user(server, "SERVING"))


def across_accounts_in_a_cluster(stack: ExitStack) -> Ends:
    nodes = start_cluster(stack, text=ACCOUNTS)
    return Ends(as_user(nodes[0], "ASKING"), as_user(nodes[1], "SERVING"))


SITES: Dict[str, Site] = {
    start.__name__: Site(start, says_503)
    for start, says_503 in (
        (in_a_cluster, PROMPT),
        (requester_on_a_leaf, PROMPT),
        (worker_on_a_leaf, PROMPT),
        (across_gateways, LATE),
        (across_accounts, NEVER),
        (across_accounts_in_a_cluster, NEVER),
    )
}
