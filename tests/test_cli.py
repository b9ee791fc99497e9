"""The command line without its demo, and what it says where the extra that it needs is missing."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib import metadata
from typing import NoReturn

import pytest
from procs import LONG, PACKAGE_ROOT

from natsbridge import _demo, cli


def run_python(code: str, *args: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-W", "error", *([code] if code == "-m" else ["-c", code]), *args],
        env={**os.environ, "PYTHONPATH": PACKAGE_ROOT},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=LONG,
    )


@pytest.mark.parametrize("option", ["--help", "-h"])
def test_help(capsys: pytest.CaptureFixture[str], option: str) -> None:
    assert cli.main([option]) == 0
    out, err = capsys.readouterr()
    assert "Usage: natsbridge [OPTIONS] COMMAND" in out.replace("[ARGS]", "").replace("[COMMAND]", "COMMAND")
    assert "demo" in out
    assert "--version" in out
    assert max(map(len, out.splitlines())) <= 80
    assert err == ""


def test_no_arguments_give_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([]) == 0
    without = capsys.readouterr()
    assert cli.main(["--help"]) == 0
    assert capsys.readouterr() == without


def test_help_of_the_demo_tells_its_exit_codes(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["demo", "--help"]) == 0
    out = capsys.readouterr().out
    assert "Exit code: 0 if" in out
    assert "--broken-worker" in out


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--version"]) == 0
    name, _, version = capsys.readouterr().out.strip().partition(" ")
    assert name == "natsbridge"
    assert version


def test_version_is_that_of_the_installed_package(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(metadata, "version", lambda name: {"natsbridge": "1.2.3"}[name])
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out == "natsbridge 1.2.3\n"


def test_version_of_a_source_tree_is_not_known(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def version(name: str) -> NoReturn:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "version", version)
    assert cli.main(["--version"]) == 0
    assert "not installed" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("args", "complaint"),
    [
        (["no-such-command"], "No such command 'no-such-command'"),
        (["--no-such-option"], "No such option"),
        (["demo", "superfluous"], "unexpected extra argument"),
    ],
)
def test_wrong_arguments(capsys: pytest.CaptureFixture[str], args: list[str], complaint: str) -> None:
    assert cli.main(args) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert complaint in err
    assert "--help" in err


@pytest.mark.parametrize("code", [0, 1, 130])
def test_the_demo_decides_on_the_exit_code(monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    monkeypatch.setattr(_demo, "run", lambda *, broken_worker: code)
    assert cli.main(["demo"]) == code


def test_ctrl_c_at_any_other_moment(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def run(*, broken_worker: bool) -> NoReturn:
        raise KeyboardInterrupt

    monkeypatch.setattr(_demo, "run", run)
    assert cli.main(["demo"]) == 130
    assert capsys.readouterr().out == ""


def test_another_missing_module_is_not_blamed_on_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    def run(*, broken_worker: bool) -> NoReturn:
        raise ModuleNotFoundError("No module named 'gone'", name="gone")

    monkeypatch.setattr(_demo, "run", run)
    with pytest.raises(ModuleNotFoundError, match="gone"):
        cli.main(["demo"])


@pytest.mark.process
def test_it_is_also_a_module() -> None:
    done = run_python("-m", "natsbridge", "no-such-command")
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("Usage: natsbridge ")


@pytest.mark.process
@pytest.mark.parametrize(("module", "args"), [("click", []), ("rich", []), ("rich", ["--web"]), ("werkzeug", ["--web"])])
def test_a_missing_extra_is_explained(module: str, args: list[str]) -> None:
    block = f"import sys; sys.modules[{module!r}] = None; "
    done = run_python(block + "from natsbridge.cli import main; sys.exit(main(sys.argv[1:]))", "demo", *args)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr == (
        f"natsbridge: the command line needs {module}; install it with: pip install 'natsbridge[demo]'\n"
    )


@pytest.mark.process
def test_importing_it_needs_no_extra() -> None:
    done = run_python("import sys, natsbridge.cli; print({'click', 'rich', 'werkzeug'} & set(sys.modules))")
    assert (done.returncode, done.stdout, done.stderr) == (0, "set()\n", "")
