"""A worker's chunks as they are, as the body of a response: reports, exports, files."""

from __future__ import annotations

from typing import TYPE_CHECKING, List, Optional

from .. import Pool
from .._types import Data
from ._client import ClientStream, Environ, RequestOptions

if TYPE_CHECKING:
    from typing_extensions import Unpack


class ByteStream:
    """A worker's answer as the body of a response: an iterator of ``bytes`` for a WSGI server.

    The constructor sends the request and waits for the first chunk, or the end: what goes wrong until then it raises, while
    the response can still say so with its status. What goes wrong later is raised by iterating: the server then breaks the
    connection off, which tells the client that its answer is not complete.

    ``close()`` stops the worker, at any time. ``environ`` and ``request`` are as for ``EventStream``. There
    are no heartbeats: where the server does not show the client's socket, a client that goes while nothing is sent is
    noticed with the next chunk only.
    """

    def __init__(
        self,
        pool: Pool,
        subject: str,
        data: Data = b"",
        *,
        environ: Optional[Environ] = None,
        **request: Unpack[RequestOptions],
    ) -> None:
        self._client = ClientStream(pool, subject, data, environ, **request)
        try:
            self._first: Optional[List[bytes]] = self._client.next_chunks()
        except BaseException:
            self._client.close()
            raise

    @property
    def connect_id(self) -> str:
        """The client's id."""
        return self._client.connect_id

    @property
    def end_reason(self) -> Optional[str]:
        """Why the worker's stream is over, None while it is open; see ``ResponseStream.end_reason``."""
        return self._client.end_reason

    def __iter__(self) -> ByteStream:
        return self

    def __next__(self) -> bytes:
        chunks, self._first = self._first, None
        if chunks is None:
            chunks = self._client.next_chunks()
        if not chunks:
            raise StopIteration
        return chunks[0] if len(chunks) == 1 else b"".join(chunks)

    def close(self) -> None:
        """Stop the worker and let go of the client; idempotent, any thread. Iterating ends."""
        self._first = None
        self._client.close()

    def __enter__(self) -> ByteStream:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<ByteStream {self._client.stream!r}>"
