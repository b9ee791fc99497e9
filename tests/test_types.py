"""Pyright sees the real types of the blocking methods, too; mypy sees them wherever it checks the tests."""

from __future__ import annotations

import importlib.util
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from procs import PACKAGE_ROOT

HERE = Path(__file__).parent
FILES = sorted(HERE.glob("types_of_*.py"))

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("pyright") is None, reason="pyright is not installed: tox -e type has it"
)


def pyright(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run it. Its package fetches the program itself with npm, once."""
    return subprocess.run(
        [sys.executable, "-m", "pyright", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=300,
    )


@pytest.mark.timeout(320)
def test_pyright_sees_the_types(tmp_path: Path) -> None:
    fetched = pyright("--version")
    if fetched.returncode != 0:
        pytest.skip(f"pyright could not be fetched: {fetched.stdout.strip()[-200:]}")
    for file in FILES:
        shutil.copy(file, tmp_path)
    config = {
        "extraPaths": [PACKAGE_ROOT],  # where it is installed in a way that only Python itself finds
        "typeCheckingMode": "strict",
        "enableTypeIgnoreComments": False,  # those are mypy's
        "reportUnnecessaryTypeIgnoreComment": "error",
    }
    (tmp_path / "pyrightconfig.json").write_text(json.dumps(config))
    result = pyright("--project", str(tmp_path), "--pythonpath", sys.executable, "--outputjson")
    report = json.loads(result.stdout[result.stdout.index("{") :])
    assert report["generalDiagnostics"] == []
    assert report["summary"]["filesAnalyzed"] == len(FILES)
