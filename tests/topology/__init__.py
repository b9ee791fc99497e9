"""Streams across more than one server or account, and servers that are set up so that 503s lie: ``tox -e topology``."""
