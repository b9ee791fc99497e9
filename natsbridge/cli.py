"""The command line, ``natsbridge``. It needs click, its demo rich, and that in the browser werkzeug: the extra "demo"."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Optional, Sequence

if TYPE_CHECKING:
    import click

__all__ = ["main"]

_EXTRA = ("click", "rich", "werkzeug")


def main(args: Optional[Sequence[str]] = None) -> int:
    """Run the command line (``sys.argv`` if ``args`` is None) and return the exit code.

    0: done; 1: failed; 2: wrong arguments, or what the command needs is missing; 130: interrupted.
    """
    try:
        return _run(args)
    except ImportError as error:
        missing = (error.name or "").partition(".")[0]
        if missing not in _EXTRA:
            raise
        print(
            f"natsbridge: the command line needs {missing}; install it with: pip install 'natsbridge[demo]'",
            file=sys.stderr,
        )
        return 2
    except KeyboardInterrupt:
        return 130


def _run(args: Optional[Sequence[str]]) -> int:
    import click

    try:
        code = _commands().main(args, prog_name="natsbridge", standalone_mode=False)
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except click.Abort:  # what click makes of KeyboardInterrupt
        return 130
    return code if isinstance(code, int) else 0


def _commands() -> click.Group:
    import click

    @click.group(
        invoke_without_command=True, context_settings={"help_option_names": ["--help", "-h"], "max_content_width": 80}
    )
    @click.version_option(_version(), message="%(prog)s %(version)s")
    @click.pass_context
    def natsbridge(context: click.Context) -> None:
        """natsbridge: a synchronous, threaded NATS client whose streamed answers stop when nobody listens any more."""
        if context.invoked_subcommand is None:
            click.echo(context.get_help())

    @natsbridge.command()
    @click.option(
        "--broken-worker",
        is_flag=True,
        help="Let the worker ignore that its clients go, to see the demo fail: exit code 1.",
    )
    @click.option("--web", is_flag=True, help="See it in the browser instead: serves a page until Ctrl-C.")
    @click.option("--port", type=click.IntRange(1, 65535), help="With --web: the page's port; any free one by default.")
    @click.option("--server", metavar="URL", help="With --web: use this nats-server; by default one is started.")
    @click.option("--open", "open_browser", is_flag=True, help="With --web: open the page in your browser.")
    def demo(broken_worker: bool, web: bool, port: Optional[int], server: Optional[str], open_browser: bool) -> int:
        """See a streamed answer, and see it stop when its client is gone.

        Starts a nats-server of its own, a worker process and requester processes; streams an answer to the terminal; then
        loses a client in each of seven ways, and shows how many chunks the worker sent after that, and when its loop
        ended. Takes less than ten seconds, needs no arguments, and leaves nothing behind.

        Exit code: 0 if the worker stopped every time, 1 if it did not, 2 if the demo could not be carried out.

        With --web it prints the URL of a page on which you start streams, stop them, close their tabs, and watch the
        worker's handlers end. Exit code: 0 when interrupted, 2 if it could not be carried out.
        """
        if web:
            if broken_worker:
                raise click.UsageError("--broken-worker is for the demo in the terminal: leave out --web")
            from ._web.demo import run as run_web

            return run_web(port=port, server=server, open_browser=open_browser)
        for name, given in (("--port", port), ("--server", server), ("--open", open_browser)):
            if given:
                raise click.UsageError(f"{name} is for the demo in the browser: add --web")
        from ._demo import run

        return run(broken_worker=broken_worker)

    return natsbridge


def _version() -> str:
    from importlib import metadata

    try:
        return metadata.version("natsbridge")
    except metadata.PackageNotFoundError:
        return "(not installed: version unknown)"
