"""What reaches a log, and what must not."""

import json
import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog

from gimle.foundation import logs

SECRET = "sk-gimle-very-secret"


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    before = structlog.get_config(), list(logging.root.handlers)
    yield
    structlog.configure(**before[0])
    logging.root.handlers[:] = before[1]


@pytest.mark.parametrize("as_json", [True, False])
def test_neither_named_secrets_nor_local_variables_reach_a_log(
    capsys: pytest.CaptureFixture[str], *, as_json: bool
) -> None:
    logs.configure("info", as_json=as_json)
    body = f"a prompt with {SECRET}"
    try:
        int(body[:1])
    except ValueError:
        logs.get("test").exception("crashed", api_key=SECRET, authorization=SECRET)
    told = capsys.readouterr().err
    assert SECRET not in told
    assert "ValueError" in told
    assert "[redacted]" in told


def test_json_logs_are_one_object_a_line_whatever_is_logged(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure("info", as_json=True)
    logs.get("test").info("saw", path=Path("/a"), error=OSError("no"), many={1, 2})
    event = json.loads(capsys.readouterr().err)
    assert event["event"] == "saw"
    assert event["part"] == "test"
