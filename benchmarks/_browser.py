"""As much of a browser as tests and benchmarks of gateways need: one request on a socket of its own."""

from __future__ import annotations

import re
import socket
import struct
from typing import Tuple

_TIMEOUT = 20.0


class Browser:
    """Has sent its request when the constructor returns. What it does not read stays in the socket."""

    def __init__(self, port: int, path: str, *, receive_buffer: int = 0) -> None:
        self.socket = socket.socket()
        self.socket.settimeout(_TIMEOUT)
        if receive_buffer:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self.socket.connect(("127.0.0.1", port))
        self.socket.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
        self.received = b""

    def read_until(self, marker: bytes) -> None:
        """Read on until ``marker`` has arrived. Raises EOFError when the server closes before."""
        while marker not in self.received:
            data = self.socket.recv(65536)
            if not data:
                raise EOFError(f"{marker!r} did not come, but {self.received[-2000:]!r}")
            self.received += data

    def drain_until(self, marker: bytes) -> None:
        """As ``read_until``, but keep nothing: for more than one wants to hold. Closes."""
        tail = b""
        with self.socket:
            while marker not in tail:
                data = self.socket.recv(1 << 20)
                if not data:
                    raise EOFError(f"{marker!r} did not come")
                tail = tail[-len(marker) :] + data

    def read_all(self) -> Tuple[int, bytes, bool]:
        """Read to the end and close: status, body, and whether the body was complete as far as HTTP can tell."""
        with self.socket:
            while True:
                data = self.socket.recv(65536)
                if not data:
                    break
                self.received += data
        head, _, body = self.received.partition(b"\r\n\r\n")
        status = int(head.split()[1])
        if not re.search(rb"(?i)^transfer-encoding: chunked", head, re.MULTILINE):
            return status, body, True
        whole, complete = _unchunked(body)
        return status, whole, complete

    def close(self) -> None:
        """As a browser whose tab is closed; idempotent."""
        self.socket.close()

    def reset(self) -> None:
        """As one that is killed with unread data in its socket: no FIN, but a RST."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.socket.close()


def _unchunked(body: bytes) -> Tuple[bytes, bool]:
    """The body without its transfer coding, and whether its last chunk came."""
    whole = b""
    while body:
        size, _, rest = body.partition(b"\r\n")
        length = int(size.split(b";")[0], 16)
        if length == 0:
            return whole, True
        whole, body = whole + rest[:length], rest[length + 2 :]
    return whole, False
