"""Runs another program of this directory under gevent.

Options: those of the program; ``runs``: its name; ``when``: what is done before patching: ``first`` (nothing, as it should
be), ``imported`` (natsbridge), ``opened`` (a pool, which the program finds as ``early``), ``closed`` (and closed again).
"""

from __future__ import annotations

import json
import runpy
import sys
from pathlib import Path
from typing import Any, Dict

given = json.loads(sys.argv[1])
program, when = given.pop("runs"), given.pop("when", "first")
found: Dict[str, Any] = {}

if when != "first":
    import natsbridge

    assert "gevent" not in sys.modules
    if when != "imported":
        found["early"] = natsbridge.Pool(given["url"], name="early").open()
    if when == "closed":
        found["early"].close()

from gevent import monkey  # noqa: E402 - this is what it is about

monkey.patch_all()

from gevent.fileobject import FileObjectPosix  # noqa: E402
from gevent.hub import Hub  # noqa: E402

Hub.NOT_ERROR += (KeyboardInterrupt,)  # it is raised in the main greenlet, and its traceback printed once is enough
sys.stdin = FileObjectPosix(sys.stdin.fileno(), "r", close=False)  # reading lets the others run
sys.argv = [program, json.dumps(given)]
runpy.run_path(str(Path(__file__).with_name(f"{program}.py")), found, "__main__")
