"""A Django project with a report that takes its time.

    pip install 'natsbridge[django,server]'
    cd examples/django_export
    nats-server &
    python manage.py natsbridge_worker &
    python manage.py runserver

Then http://127.0.0.1:8000. Cancel the report half-way, or close the tab, and look at what the worker prints.
"""

from __future__ import annotations

import os
import sys

if __name__ == "__main__":
    from django.core.management import execute_from_command_line

    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "settings")
    execute_from_command_line(sys.argv)
