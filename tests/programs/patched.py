"""Runs another program of this directory under gevent. Options: ``runs``: its name; ``when``: what is made before patching; its own.

``when``: ``first`` (nothing is, as it should be), ``imported`` (natsbridge), ``made`` (a pool).
"""

from __future__ import annotations

import json
import runpy
import sys
from pathlib import Path

given = json.loads(sys.argv[1])
program, when = given.pop("runs"), given.pop("when", "first")

if when != "first":
    import natsbridge

    assert "gevent" not in sys.modules
if when == "made":
    made = natsbridge.Pool(given["url"])

from gevent import monkey  # noqa: E402 - this is what it is about

monkey.patch_all()
sys.argv = [program, json.dumps(given)]
runpy.run_path(str(Path(__file__).with_name(f"{program}.py")), {"made": made} if when == "made" else None, "__main__")
