"""`/api/v1/jobs`: look on, stop, try again, discard; and a stream of progress."""

from collections.abc import AsyncGenerator
from typing import Annotated

from litestar import get, post
from litestar.params import QueryParameter
from litestar.response import Stream

from gimle.app import App
from gimle.interfaces.http import sse
from gimle.interfaces.http.given import After, Caller, Limit, Page, PathText, Rooms
from gimle.jobs.types import Job, Status
from gimle.trust.types import Principal

_BASE = "/api/v1/jobs"

Wanted = Annotated[Status | None, QueryParameter(name="status", description="Only jobs in this state.")]


@get(_BASE, summary="List jobs", tags=["jobs"])
async def list_jobs(
    rooms: Rooms, principal: Caller, wanted: Wanted = None, limit: Limit = 50, after: After = None
) -> Page[Job]:
    """Your jobs, newest first."""
    return Page(*await rooms.jobs.list(principal.tenant, wanted, limit, after))


@get(f"{_BASE}/{{job:str}}", summary="Show a job", tags=["jobs"])
async def show_job(rooms: Rooms, principal: Caller, job: PathText) -> Job:
    """One job: its phase, how far it is, and what went wrong."""
    return await rooms.jobs.get(principal.tenant, job)


@get(f"{_BASE}/{{job:str}}/events", summary="Follow a job", tags=["jobs"])
async def follow_job(rooms: Rooms, principal: Caller, job: PathText) -> Stream:
    """Server-sent events: `progress` with the job at each change, and at the end `done`, or `error` if it failed."""
    await rooms.jobs.get(principal.tenant, job)
    return sse.stream(_events(rooms, principal, job))


@post(f"{_BASE}/{{job:str}}/cancel", summary="Cancel a job", tags=["jobs"], status_code=200)
async def cancel_job(rooms: Rooms, principal: Caller, job: PathText) -> Job:
    """Stop a job: at once if it waits, at its next step if it runs."""
    return await rooms.jobs.cancel(principal.tenant, job)


@post(f"{_BASE}/{{job:str}}/retry", summary="Retry a job", tags=["jobs"], status_code=200)
async def retry_job(rooms: Rooms, principal: Caller, job: PathText) -> Job:
    """Run a job that failed once more; what it had done already is not done again."""
    return await rooms.jobs.retry(principal.tenant, job)


@post(f"{_BASE}/{{job:str}}/discard", summary="Discard a job", tags=["jobs"], status_code=204)
async def discard_job(rooms: Rooms, principal: Caller, job: PathText) -> None:
    """Forget a job that has ended."""
    await rooms.jobs.discard(principal.tenant, job)


async def _events(rooms: App, principal: Principal, job: str) -> AsyncGenerator[bytes, None]:
    async for state in rooms.jobs.watch(principal.tenant, job):
        match state.status:
            case "done" | "cancelled":
                yield sse.event("done", state)
            case "failed":
                yield sse.event("error", state)
            case _:
                yield sse.event("progress", state)


HANDLERS = (list_jobs, show_job, follow_job, cancel_job, retry_job, discard_job)
