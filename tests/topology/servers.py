"""Groups of nats-servers, started from real configuration, and returned once their monitoring shows them joined."""

from __future__ import annotations

import json
import socket
import sys
import urllib.request
from contextlib import ExitStack
from typing import Any, Dict, Iterable, List

from procs import LONG, wait_until

from natsbridge.server import EmbeddedServer

HOST = "127.0.0.1"

# The account SERVING offers what is below "work" as streams, and what is below "single" with one reply; the users are
# called as their accounts. What is below "brief" the server forgets after a second without a reply, not two minutes.
ACCOUNTS = """
accounts {
    SERVING {
        users: [{ user: SERVING, password: secret }]
        exports: [
            { service: "work.>", response_type: Stream }
            { service: "brief.>", response_type: Stream, threshold: "1s" }
            { service: "single.>" }
        ]
    }
    ASKING {
        users: [{ user: ASKING, password: secret }]
        imports: [
            { service: { account: SERVING, subject: "work.>" } }
            { service: { account: SERVING, subject: "brief.>" } }
            { service: { account: SERVING, subject: "single.>" } }
        ]
    }
}
"""


def as_user(server: EmbeddedServer, account: str) -> str:
    """The URL with which to connect to an account of ``ACCOUNTS``."""
    return server.url.replace("://", f"://{account}:secret@")


def page(server: EmbeddedServer, path: str) -> Dict[str, Any]:
    """One of the server's monitoring pages, as in ``page(server, "routez")``."""
    with urllib.request.urlopen(f"{server.monitor_url}/{path}", timeout=LONG) as answer:
        found: Dict[str, Any] = json.load(answer)
        return found


def take_ports(count: int, stack: ExitStack) -> List[int]:
    """Free ports, which nobody else is given until ``stack`` closes.

    A socket that is bound, but does not listen, keeps its port from everyone who asks for any free one. Linux lets
    nats-server listen on it all the same, as both set SO_REUSEADDR; elsewhere the ports are merely free now.
    """
    with ExitStack() as until_known:
        keep = stack if sys.platform.startswith("linux") else until_known
        ports = []
        for _ in range(count):
            held = keep.enter_context(socket.socket())
            held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            held.bind((HOST, 0))
            ports.append(held.getsockname()[1])
        return ports


def _quoted(ports: Iterable[int]) -> List[str]:
    return [f'"nats://{HOST}:{port}"' for port in ports]


def start(stack: ExitStack, text: str) -> EmbeddedServer:
    return stack.enter_context(EmbeddedServer(config_text=text, http=True))


# -- clusters -----------------------------------------------------------------------------------------------------------


def _cluster_text(name: str, port: int, ports: List[int]) -> str:
    routes = ", ".join(_quoted(other for other in ports if other != port))
    return f'cluster {{ name: {name}, listen: "{HOST}:{port}", routes: [{routes}] }}\n'


def start_cluster(stack: ExitStack, size: int = 3, text: str = "") -> List[EmbeddedServer]:
    """Servers of which each has a route to each other one. ``text``: more of their configuration."""
    ports = take_ports(size, stack)
    servers = [
        start(stack, f"server_name: node{number}\n" + _cluster_text("mesh", port, ports) + text)
        for number, port in enumerate(ports)
    ]
    wait_for_routes(servers)
    return servers


def wait_for_routes(servers: List[EmbeddedServer]) -> None:
    """Wait until every server of the cluster has a route to every other one."""

    def joined() -> bool:
        for server in servers:
            routes = page(server, "routez")["routes"]  # more than one to each, where the server pools them
            if len({route["remote_id"] for route in routes}) != len(servers) - 1:
                return False
        return True

    wait_until(joined, what="the cluster")


# -- leafnodes ----------------------------------------------------------------------------------------------------------


def start_leaf(stack: ExitStack) -> List[EmbeddedServer]:
    """A hub, and a leaf that connects to it."""
    (port,) = take_ports(1, stack)
    hub = start(stack, f'server_name: hub\nleafnodes {{ listen: "{HOST}:{port}" }}\n')
    leaf = start(stack, f'server_name: leaf\nleafnodes {{ remotes: [{{ url: "nats://{HOST}:{port}" }}] }}\n')
    wait_until(lambda: all(page(server, "leafz")["leafnodes"] == 1 for server in (hub, leaf)), what="the leafnode")
    return [hub, leaf]


# -- gateways -----------------------------------------------------------------------------------------------------------

_CLUSTERS = ("east", "west")


def start_gateways(stack: ExitStack, size: int = 2) -> List[List[EmbeddedServer]]:
    """Two clusters of ``size`` servers each, which gateways join."""
    routes = {name: take_ports(size, stack) for name in _CLUSTERS}
    gates = {name: take_ports(size, stack) for name in _CLUSTERS}
    remotes = ", ".join(f"{{ name: {name}, urls: [{', '.join(_quoted(ports))}] }}" for name, ports in gates.items())

    def text(name: str, number: int) -> str:
        listen = f"{HOST}:{gates[name][number]}"
        return (
            f"server_name: {name}{number}\n"
            + _cluster_text(name, routes[name][number], routes[name])
            + f'gateway {{ name: {name}, listen: "{listen}", gateways: [{remotes}] }}\n'
        )

    clusters = [[start(stack, text(name, number)) for number in range(size)] for name in _CLUSTERS]
    for cluster in clusters:
        wait_for_routes(cluster)
    wait_until(lambda: all(map(_gates_joined, clusters, reversed(_CLUSTERS))), what="the gateways")
    return clusters


def _gates_joined(cluster: List[EmbeddedServer], other: str) -> bool:
    """Each server has its connection to the other cluster, and those of the other cluster have all come in somewhere."""
    pages = [page(server, "gatewayz") for server in cluster]
    inbound = sum(len(found.get("inbound_gateways", {}).get(other, ())) for found in pages)
    return inbound == len(cluster) and all(other in found.get("outbound_gateways", {}) for found in pages)
