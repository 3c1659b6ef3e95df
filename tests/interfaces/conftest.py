"""A provider that can fail, and OpenAI's own SDK on the server that a module's `served` runs."""

from collections.abc import AsyncIterator

import openai
import pytest
from tests.interfaces.serving import Served

from gimle.testing import Upstream


@pytest.fixture
async def upstream() -> AsyncIterator[Upstream]:
    async with Upstream() as provider:
        yield provider


@pytest.fixture
async def sdk(served: Served) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(base_url=served.url + "/v1", api_key=served.token, max_retries=0) as client:
        yield client
