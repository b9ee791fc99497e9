"""Becomes, in the same process, the JavaScript program of ``js/`` that the options' ``script`` names."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

if __name__ == "__main__":
    path = Path(__file__).resolve().parent / "js" / f"{json.loads(sys.argv[1])['script']}.js"
    os.execvp("node", ["node", "--throw-deprecation", str(path), sys.argv[1]])
