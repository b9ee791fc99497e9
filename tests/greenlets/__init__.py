"""natsbridge under ``gevent.monkey.patch_all()``, in child processes: see ``conftest.py``."""
