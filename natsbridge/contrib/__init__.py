"""Gateways between HTTP and streams: server-sent events, Flask, Django. Each module needs its own extra, ``sse`` none."""
