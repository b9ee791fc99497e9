"""Installs a Chromium where there is none: as Debian's package if this user may, or else the one that playwright offers.

Where neither can be had the tests that need it are skipped, but in continuous integration (``CI`` is set) that is an error.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

from playwright.sync_api import sync_playwright

from browser.chromium import find_chromium

APT = "apt-get"


def main() -> None:
    with sync_playwright() as playwright:
        if find_chromium(playwright) is not None:
            return
    if hasattr(os, "geteuid") and os.geteuid() == 0 and shutil.which(APT):
        environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
        for command in (["update", "-qq"], ["install", "-y", "-qq", "--no-install-recommends", "chromium"]):
            subprocess.run([APT, *command], env=environment, stdout=subprocess.DEVNULL, check=False)
        if find_chromium() is not None:
            return
    done = subprocess.run([sys.executable, "-m", "playwright", "install", "chromium"], check=False)
    if done.returncode != 0:
        problem = "there is no Chromium, and none could be installed: nothing looks at the demo's page"
        if os.environ.get("CI"):
            sys.exit(problem)
        print(problem)


if __name__ == "__main__":
    main()
