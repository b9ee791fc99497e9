"""Many clients in one registry, or in a bare dict beside it: ``python -m benchmarks._ids registry|dict``."""

from __future__ import annotations

import gc
import random
import sys
import time
from typing import Any, Callable, Dict, List, Union

from natsbridge import OnlineRegistry

from ._peer import serve
from ._process import resident_bytes


def new_id(chance: random.Random) -> str:
    """An id as long as a UUID."""
    return f"{chance.getrandbits(144):036x}"


class Ids:
    """Registries, or dicts, of several sizes."""

    def __init__(self, kind: str) -> None:
        self._kind = kind
        self._looks: Dict[int, Callable[[str], bool]] = {}
        self._probes: Dict[int, List[str]] = {}

    def _fill(self, count: int, seed: int) -> Union[OnlineRegistry, Dict[str, None]]:
        chance = random.Random(seed)
        if self._kind == "dict":
            return {new_id(chance): None for _ in range(count)}
        registry = OnlineRegistry()
        for _ in range(count):
            registry.mark_online(new_id(chance))
        return registry

    def fill(self, count: int, probes: int) -> Dict[str, Any]:
        """Hold ``count`` ids: the memory that they take, ids included."""
        gc.collect()
        before = resident_bytes()
        held = self._fill(count, count)
        gc.collect()
        taken = resident_bytes() - before
        self._looks[count] = held.is_online if isinstance(held, OnlineRegistry) else held.__contains__
        chance = random.Random(count)
        every = [new_id(chance) for _ in range(count)]  # equal to those held, not the same objects
        self._probes[count] = [chance.choice(every) for _ in range(probes)]
        return {"bytes": taken}

    def look_up(self, count: int) -> Dict[str, Any]:
        """Seconds for one look-up among ``count`` ids."""
        look, probes = self._looks[count], self._probes[count]
        begin = time.perf_counter()
        for probe in probes:
            look(probe)
        return {"seconds": (time.perf_counter() - begin) / len(probes)}


if __name__ == "__main__":
    serve(Ids(sys.argv[1]))
