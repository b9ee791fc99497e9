"""Installs the npm packages that the programs of ``js/`` need into the directory that the one argument names.

Where npm is missing the tests that need it are skipped, but in continuous integration (``CI`` is set) that is an error.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

FILES = ("package.json", "package-lock.json", ".npmrc")


def main() -> None:
    target = Path(sys.argv[1])
    npm = shutil.which("npm")
    if npm is None or shutil.which("node") is None:
        problem = "Node.js and npm are not both installed: there is nothing to run the JavaScript programs with"
        if os.environ.get("CI"):
            sys.exit(problem)
        print(problem)
        return
    target.mkdir(parents=True, exist_ok=True)
    for name in FILES:
        shutil.copy(Path(__file__).resolve().parent / "js" / name, target)
    sys.exit(subprocess.run([npm, "ci"], cwd=target, check=False).returncode)


if __name__ == "__main__":
    main()
