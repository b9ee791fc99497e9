from __future__ import annotations
from test_fork import *
from test_fork import _service
