"""Where an object's bytes come from and go to: bytes, file objects, paths."""

from __future__ import annotations

import io
import os
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Callable, Iterator, NamedTuple, Optional, Union

from . import _wire

Path_ = Union[str, "os.PathLike[str]"]
Content = Union[str, bytes, bytearray, memoryview, IO[bytes], IO[str], io.IOBase, "os.PathLike[str]"]
Target = Union[Path_, IO[bytes], IO[str], io.IOBase]


class Source(NamedTuple):
    """What is stored. ``read(n)``: n bytes, fewer at the end, none behind it. ``size``: in bytes, None if unknown."""

    read: Callable[[int], bytes]
    size: Optional[int]


@contextmanager
def source(data: object) -> Iterator[Source]:
    """Open ``data`` for reading; a file that is the caller's is read from where it stands, and stays open.

    Raises TypeError, and what opening and reading a file raises.
    """
    if isinstance(data, str):
        data = data.encode()
    if isinstance(data, (bytes, bytearray, memoryview)):
        view = memoryview(data).cast("B")
        yield Source(_slicer(view), view.nbytes)
    elif isinstance(data, os.PathLike):
        with open(data, "rb") as opened:
            yield Source(_reader(opened), _size(opened))
    else:
        file: Any = getattr(data, "buffer", data)  # of a text file
        if not hasattr(file, "read"):
            raise TypeError(f"data must be bytes, a str, a path or a file that can be read, not {data!r}"[:200])
        yield Source(_reader(file), _size(file))


def _slicer(view: memoryview) -> Callable[[int], bytes]:
    offset = 0

    def read(size: int) -> bytes:
        nonlocal offset
        offset += size
        return bytes(view[offset - size : offset])

    return read


def _reader(file: Any) -> Callable[[int], bytes]:
    def read(size: int) -> bytes:
        """Sockets and pipes give less than they are asked for."""
        parts = []
        while size > 0:
            part = file.read(size)
            if part is None:
                raise BlockingIOError(f"{file!r} is not ready: open it for blocking reads")
            if not isinstance(part, bytes):
                raise TypeError(f"{file!r} gives {type(part).__name__}, not bytes: open it in binary mode")
            if not part:
                break
            parts.append(part)
            size -= len(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    return read


def _size(file: Any) -> Optional[int]:
    """What is left to be read, if the file can tell."""
    try:
        here = file.tell()
        end = file.seek(0, os.SEEK_END)
        file.seek(here)
    except (OSError, ValueError, AttributeError, TypeError):
        return None
    return end - here if isinstance(end, int) else None


class Sink:
    """What is written to. ``begun``: whether it has been given something that cannot be taken back."""

    def __init__(self, file: Any, *, lasting: bool = True) -> None:
        self._file, self._lasting = file, lasting
        self.begun = False

    def write(self, data: bytes) -> None:
        """Unbuffered files write less than they are given."""
        file, view = self._file, memoryview(data)
        self.begun = self._lasting
        while view.nbytes:
            try:
                written = file.write(view)
            except TypeError as error:
                raise TypeError(f"{file!r} takes no bytes ({error}): open it in binary mode") from None
            if written is None:
                if isinstance(file, io.RawIOBase):
                    raise BlockingIOError(f"{file!r} is not ready: open it for blocking writes")
                return  # many that only look like files say nothing, and take all
            if isinstance(written, bool) or not isinstance(written, int) or not 0 < written <= view.nbytes:
                raise OSError(f"{file!r} says that it wrote {written!r} of {view.nbytes} bytes: nobody knows what it holds")
            view = view[written:]


@contextmanager
def target(into: object) -> Iterator[Sink]:
    """Open ``into`` for writing.

    A path gets its new content when the block has come through, and otherwise stays as it is. A file that is the caller's
    stays open. Raises TypeError, and what opening and writing a file raises.
    """
    if isinstance(into, (str, os.PathLike)):
        with _replacing(Path(os.path.realpath(into))) as sink:
            yield sink
        return
    file: Any = getattr(into, "buffer", into)  # of a text file
    if not hasattr(file, "write"):
        raise TypeError(f"writeinto must be a path or a file that can be written, not {into!r}"[:200])
    yield Sink(file)


@contextmanager
def _replacing(path: Path) -> Iterator[Sink]:
    if path.exists() and not path.is_file():  # /dev/stdout
        with path.open("wb") as file:
            yield Sink(file)
        return
    part = path.with_name(f".{path.name[:100]}.{_wire.stream_token()}.part")
    try:
        with part.open("xb") as file:
            yield Sink(file, lasting=False)
        if path.exists():
            part.chmod(path.stat().st_mode & 0o7777)
        os.replace(part, path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise
