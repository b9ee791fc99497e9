"""natsbridge under ``gevent.monkey.patch_all()``, in child processes; gevent has to be installed: ``tox -e gevent``."""
