"""A real nats-server for the tests of this example."""

from __future__ import annotations

pytest_plugins = ["natsbridge.testing"]
