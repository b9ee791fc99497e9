"""What public methods take, for type checkers."""

from __future__ import annotations

from typing import Mapping, Optional, Union

Data = Union[bytes, bytearray, memoryview]  # a payload; what can change is copied before the method returns
Headers = Optional[Mapping[str, str]]
