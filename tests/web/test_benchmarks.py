"""The benchmarks of gateways run; what they measure is nobody's to judge here."""

from __future__ import annotations

import pytest

from benchmarks import sse


@pytest.mark.slow
@pytest.mark.process
def test_server_sent_events(capsys: pytest.CaptureFixture[str]) -> None:
    assert sse.main(["--quick"]) == 0
    rows = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| gunicorn gthread")]
    assert len(rows) == 3
    assert all("/ s" in row or " ms" in row for row in rows)
