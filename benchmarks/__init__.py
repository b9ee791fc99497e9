"""Measurements of natsbridge beside bare nats-py: ``python -m benchmarks.core``."""
