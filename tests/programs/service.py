"""A service whose requests take a moment, two at a time.

Options: ``url``, ``name``; ``way``: "run" for ``Service.run``, "exit" to leave with SystemExit on SIGTERM.
"""

from __future__ import annotations

import signal
import sys
import time

from lines import options, tell

from natsbridge import Pool, ServiceRequest


def slow(request: ServiceRequest) -> None:
    time.sleep(0.2)
    request.respond(b"done")


def main() -> None:
    given = options()
    service = Pool(given["url"]).add_service(given["name"], "1.0.0", max_workers=2)
    service.add_endpoint("slow", slow, subject=given["name"])
    if given["way"] == "exit":
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
        tell("ready")
        while True:
            time.sleep(60)
    tell("ready")
    service.run()


if __name__ == "__main__":
    main()
