"""nginx with the configuration that ``docs/deploy.md`` recommends, in front of a gateway."""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Optional

from ._webservers import ROOT, accepts, free_port

PAGE = ROOT / "docs" / "deploy.md"

_MAIN = """\
daemon off;
master_process off;
error_log stderr;
pid {folder}/pid;
events {{}}
http {{
access_log off;
client_body_temp_path {folder}/body;
proxy_temp_path {folder}/proxy;
fastcgi_temp_path {folder}/fastcgi;
uwsgi_temp_path {folder}/uwsgi;
scgi_temp_path {folder}/scgi;
{site}
}}
"""


def find_nginx() -> Optional[str]:
    """The executable, from the ``PATH`` or where Debian has it; None if there is none."""
    return shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")


def site(port: int, upstream: int) -> str:
    """The page's configuration, with other ports."""
    block: str
    (block,) = re.findall(r"^```nginx\n(.*?)^```$", PAGE.read_text("utf-8"), re.MULTILINE | re.DOTALL)
    assert "listen 80;" in block
    assert "127.0.0.1:8000" in block
    return block.replace("listen 80;", f"listen 127.0.0.1:{port};").replace("127.0.0.1:8000", f"127.0.0.1:{upstream}")


class Nginx:
    """Running, and passing requests on to ``upstream``, when the constructor returns."""

    def __init__(self, upstream: int) -> None:
        binary = find_nginx()
        if binary is None:
            raise FileNotFoundError("nginx is not installed; on Debian: apt-get install nginx-light")
        self.port = free_port()
        self._folder = tempfile.TemporaryDirectory()
        config = Path(self._folder.name) / "nginx.conf"
        config.write_text(_MAIN.format(folder=self._folder.name, site=site(self.port, upstream)), "utf-8")
        self._process = subprocess.Popen([binary, "-c", str(config), "-e", "stderr"], stdin=subprocess.DEVNULL)
        deadline = time.monotonic() + 10
        while not accepts(self.port):
            if self._process.poll() is not None or time.monotonic() >= deadline:
                self.close()
                raise RuntimeError("nginx did not start")
            time.sleep(0.01)

    def close(self) -> None:
        """End it; idempotent."""
        self._process.kill()
        self._process.wait()
        self._folder.cleanup()

    def __enter__(self) -> Nginx:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()
