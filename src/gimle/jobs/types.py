"""The nouns of the room: a kind of job, a job, and why an attempt failed."""

from collections.abc import Awaitable, Callable, Mapping
from datetime import datetime
from typing import Any, Literal

import msgspec

from gimle.jobs.run import Run

Queue = Literal["agents-high", "agents-low", "ingestion", "ingestion-bulk", "media", "default"]
Status = Literal["queued", "running", "done", "failed", "cancelled"]

# Seconds between two looks of a worker at a queue: half of it is what a job waits. Each look costs 4 transactions.
POLL_SECONDS: Mapping[str, float] = {
    "agents-high": 0.2,
    "agents-low": 1.0,
    "ingestion": 0.5,
    "ingestion-bulk": 1.0,
    "media": 1.0,
    "default": 1.0,
}
FINAL: frozenset[Status] = frozenset({"done", "failed", "cancelled"})


class JobKind(msgspec.Struct, frozen=True, kw_only=True):
    """What a job of this name does, and how long and how often it may try.

    `soft_seconds` after its start an attempt is cancelled and may tidy up, `hard_seconds` after its start it is
    abandoned. `tries` counts attempts; the waits between them grow from `backoff_seconds` by powers of two, with
    jitter.
    """

    name: str
    queue: Queue
    handler: Callable[[Run], Awaitable[dict[str, Any] | None]]
    soft_seconds: float
    hard_seconds: float
    tries: int = 4
    backoff_seconds: float = 1.0


class JobError(msgspec.Struct, frozen=True):
    """Why an attempt failed. `code` is that of the error class, `attempt` counts from 1."""

    code: str
    message: str
    attempt: int
    at: datetime


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """A job as its tenant sees it. `total` is 0 while nobody knows how much there is to do."""

    id: str
    tenant: str
    kind: str
    queue: str
    status: Status
    phase: str
    done: int
    total: int
    attempts: int
    payload: dict[str, Any]
    result: dict[str, Any] | None
    error: JobError | None
    history: list[JobError]
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
