"""``docs/adr.md`` says where each requirement is shown: the tests that it names exist, and what is not met has a reason."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import List, NamedTuple, Set

import pytest

HERE = Path(__file__).parent
DOCUMENT = HERE.parent / "docs" / "adr.md"


class Row(NamedTuple):
    section: str
    what: str
    met: str
    shown: str

    @property
    def tests(self) -> List[str]:
        return re.findall(r"`(test_\w+\.py::\w+)`", self.shown)


def rows() -> List[Row]:
    found: List[Row] = []
    section = ""
    for line in DOCUMENT.read_text(encoding="utf-8").splitlines():
        if line.startswith("## "):
            section = line[3:]
        elif line.startswith("| ") and not line.startswith(("| ---", "| requirement |", "| nats-py |")):
            what, met, shown = (cell.strip() for cell in line.strip("|").split(" | "))
            found.append(Row(section, what, met, shown))
    return found


ROWS = rows()


def functions(file: Path) -> Set[str]:
    return {node.name for node in ast.parse(file.read_text(encoding="utf-8")).body if isinstance(node, ast.FunctionDef)}


@pytest.mark.parametrize("row", ROWS, ids=lambda row: re.sub(r"\W+", "-", f"{row.section} {row.what}")[:70])
def test_the_tests_that_it_names_exist(row: Row) -> None:
    for name in row.tests:
        file, _, function = name.partition("::")
        assert function in functions(HERE / file), f"there is no {name}"


@pytest.mark.parametrize("row", ROWS, ids=lambda row: re.sub(r"\W+", "-", f"{row.section} {row.what}")[:70])
def test_what_is_not_met_has_a_reason(row: Row) -> None:
    if row.section.startswith("What nats-py"):
        assert row.tests
        return
    assert row.met in ("yes", "partly", "no")
    reason = re.sub(r"`test_\w+\.py::\w+`", "", row.shown)
    if row.met == "yes":
        assert row.tests or "as above" in row.shown
    else:
        assert len(reason) > 40, "say why"


def test_every_decision_that_concerns_a_client_is_there() -> None:
    told = {int(number) for row in ROWS for number in re.findall(r"ADR-(\d+)", f"{row.section} {row.what}")}
    assert told == {4, 5, 6, 7, 8, 9, 13, 15, 17, 20, 22, 32, 33, 37, 40, 43, 47, 48}
