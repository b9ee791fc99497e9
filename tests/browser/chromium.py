"""The browser, and the demo that it looks at."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from typing import Optional

from playwright.sync_api import Browser, Playwright

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")


def find_chromium(playwright: Optional[Playwright] = None) -> Optional[str]:
    """The path of a Chromium: that of NATSBRIDGE_CHROMIUM, of PATH, or the one that playwright has downloaded."""
    path = os.environ.get("NATSBRIDGE_CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)
    if path is None and playwright is not None and os.path.exists(playwright.chromium.executable_path):
        path = playwright.chromium.executable_path
    return path


def launch(playwright: Playwright) -> Optional[Browser]:
    """A headless Chromium; None where there is none."""
    path = find_chromium(playwright)
    return None if path is None else playwright.chromium.launch(executable_path=path)


class Demo:
    """``natsbridge demo --web`` as a user starts it, with a nats-server of its own."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-W", "error", "-m", "natsbridge", "demo", "--web"], stdout=subprocess.PIPE, text=True
        )
        assert self.process.stdout is not None
        for line in self.process.stdout:
            found = re.search(r"http://\S+", line)
            if found:
                self.url = found[0]
                return
        raise AssertionError(f"the demo ended with exit code {self.process.wait()} instead of serving")

    def stop(self) -> int:
        """Its exit code."""
        self.process.send_signal(signal.SIGINT)
        try:
            return self.process.wait(20)
        finally:
            self.process.kill()
            assert self.process.stdout is not None
            self.process.stdout.close()
