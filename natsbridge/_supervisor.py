"""Ties nats-server to the process that started it: both ends of the pipe whose end means that the starter is gone.

``server.py`` imports this module for ``Keeper``, the starter's end; ``Keeper`` runs this file as the other end:

    python -I -S _supervisor.py STARTER_PID GRACE SCRATCH_DIR COMMAND...

``t`` on the pipe ends the server gracefully, ``k`` kills it; the bare end of the pipe also removes SCRATCH_DIR. The
exit code is the server's (128 + n for signal n). Every start of a server waits for the imports here: keep them few.
"""

from __future__ import annotations

import atexit
import os
import signal
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress

GRACE = 5.0  # seconds from SIGTERM to SIGKILL
PARENT_CHECK_INTERVAL = 0.5
PR_SET_PDEATHSIG = 1


class Keeper:
    """The starter's end: runs a command below a supervisor, again and again, with a scratch directory for all runs.

    It may outlive the object that uses it by a moment. ``start`` and ``end`` are for one thread at a time.
    """

    def __init__(self, scratch: str) -> None:
        self.scratch = scratch
        self.held = ExitStack()  # what else to let go of together with the server
        self._owner = os.getpid()
        self._process: subprocess.Popen[bytes] | None = None
        self._pipe = -1
        _keepers.add(self)

    def start(self, command: Sequence[str], log_path: str) -> None:
        for process in list(_abandoned):
            if process.poll() is not None:
                _abandoned.discard(process)
        # nats-server keeps JetStream data below its temporary directory unless told otherwise: a configuration that
        # merely says "jetstream: enabled" would share it with every other server of the machine.
        env = {**os.environ, **dict.fromkeys(("TMPDIR", "TEMP", "TMP"), self.scratch)}
        supervisor = [sys.executable, "-I", "-S", os.path.abspath(__file__), str(os.getpid()), str(GRACE), self.scratch]
        read_end, self._pipe = os.pipe()  # a bare descriptor: the kernel closes it at the very end of this process
        try:
            with open(log_path, "ab") as log:
                self._process = subprocess.Popen(
                    [*supervisor, *command],
                    stdin=read_end,
                    stdout=log,
                    stderr=log,
                    env=env,
                    # Ctrl-C in the terminal is for the starter, which may still want its server to shut down in order.
                    start_new_session=sys.platform != "win32",
                    creationflags=getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0)
                    | getattr(subprocess, "CREATE_NO_WINDOW", 0),
                )
        except BaseException:
            self._close_pipe()
            raise
        finally:
            os.close(read_end)

    def poll(self) -> int | None:
        """The exit code, None while the command runs."""
        return -1 if self._process is None else self._process.poll()

    def end(self, order: bytes) -> None:
        """End the command (``t`` gracefully, ``k`` at once) and wait for it; called again, it goes on waiting."""
        process = self._process
        if process is None:
            return
        if self._pipe >= 0 and process.poll() is None:  # else SIGPIPE would end a program that gave it its default back
            with suppress(OSError):
                os.write(self._pipe, order)
        self._close_pipe()
        try:
            process.wait(GRACE + 5.0)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        self._process = None

    def remove_scratch(self) -> None:
        _remove(self.scratch)

    def abandon(self) -> None:
        """Nobody uses this any more: let the supervisor do the rest, wait for nothing."""
        process = self._process
        if os.getpid() != self._owner:
            return
        running = process is not None and process.poll() is None
        self._close_pipe()
        self.held.close()
        if running and process is not None:
            _abandoned.add(process)
        else:
            self.remove_scratch()

    def at_exit(self) -> None:
        """A running server stays for other exit handlers: it goes when the process, and with it the pipe, does."""
        if os.getpid() != self._owner:
            return
        self.held.close()
        if self.poll() is None:
            self._silence()
        else:
            self.remove_scratch()

    def _after_fork_in_child(self) -> None:
        self._close_pipe()  # the supervisor waits for the last copy to be closed
        self.held.close()
        self._silence()

    def _silence(self) -> None:
        if self._process is not None:
            _silence(self._process)

    def _close_pipe(self) -> None:
        pipe, self._pipe = self._pipe, -1
        if pipe >= 0:
            os.close(pipe)


_keepers: weakref.WeakSet[Keeper] = weakref.WeakSet()
_abandoned: set[subprocess.Popen[bytes]] = set()  # kept until they end, to be reaped


def _silence(process: subprocess.Popen[bytes]) -> None:
    """Keep ``Popen.__del__`` from warning of a process that ends by itself, or is not this process's child."""
    if process.returncode is None:
        process.returncode = 0


def _remove(directory: str) -> None:
    import shutil  # slow to import, and the supervisor needs it at the end only

    shutil.rmtree(directory, ignore_errors=True)


def _at_exit() -> None:
    for keeper in list(_keepers):
        keeper.at_exit()
    for process in list(_abandoned):
        _silence(process)


def _starter_is_gone(starter: int, first_parent: int) -> bool:
    """The second way to notice: a fork of the starter that lives on may hold the pipe open."""
    parent = os.getppid()
    if parent != first_parent:
        return True
    if parent in (starter, 0):  # 0: the starter is in another pid namespace
        return False
    try:
        os.kill(starter, 0)  # a launcher stands between, or the starter ended before the first look
    except ProcessLookupError:
        return True
    except PermissionError:
        pass
    return False


def _die_with_me() -> Callable[[], None] | None:
    """What the child does before exec so that it does not outlive a killed supervisor; None where there is no way."""
    if not sys.platform.startswith("linux"):
        return None
    try:
        import ctypes

        prctl = ctypes.CDLL(None).prctl
        kill = ctypes.c_ulong(signal.SIGKILL)
    except (ImportError, OSError, AttributeError):
        return None
    me = os.getpid()

    def prepare() -> None:
        # The signal comes when the spawning *thread* ends: here that is the main thread, hence the process.
        prctl(PR_SET_PDEATHSIG, kill)
        if os.getppid() != me:
            os._exit(1)

    return prepare


def _supervise() -> int:
    starter, grace, scratch, command = int(sys.argv[1]), float(sys.argv[2]), sys.argv[3], sys.argv[4:]
    first_parent = os.getppid()
    if sys.platform != "win32":
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # an inherited SIG_IGN would hide the exit code
    orders: list[bytes] = []
    started = threading.Event()

    def end(order: bytes) -> None:
        started.wait()
        orders.append(order)
        with suppress(OSError):  # the server may end at any moment
            if order != b"k":
                server.terminate()
                if sys.platform != "win32":
                    server.send_signal(signal.SIGCONT)  # a stopped process takes SIGTERM only when it goes on
                time.sleep(grace)
            server.kill()

    def watch_pipe() -> None:
        end(os.read(0, 1))

    def watch_parent() -> None:
        while not _starter_is_gone(starter, first_parent):
            time.sleep(PARENT_CHECK_INTERVAL)
        end(b"")

    def on_signal(_signum: int, _frame: object) -> None:
        threading.Thread(target=end, args=(b"t",), daemon=True).start()

    # Before the server starts: it may be ready, and known to be, sooner than this process goes on.
    if sys.platform != "win32":
        for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(signum, on_signal)
    try:
        server = subprocess.Popen(command, stdin=subprocess.DEVNULL, preexec_fn=_die_with_me())
    except OSError as exc:
        print(f"cannot run {command[0]}: {exc}", file=sys.stderr, flush=True)
        return 127
    started.set()
    threading.Thread(target=watch_pipe, daemon=True).start()
    if sys.platform != "win32":
        threading.Thread(target=watch_parent, daemon=True).start()

    code = server.wait()
    if b"" in orders:
        os.close(1)  # the log in the directory: Windows removes no open file
        os.close(2)
        _remove(scratch)
    return code if code >= 0 else 128 - code


if __name__ == "__main__":
    os._exit(_supervise())  # not sys.exit: nothing to clean up, and the threads may be in the middle of a wait
else:
    atexit.register(_at_exit)
