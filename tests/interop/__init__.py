"""Tests against NATS programs that nobody here wrote, in JavaScript and Python: ``tox -e interop``."""
