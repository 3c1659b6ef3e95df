"""OpenAI's own SDK on the server that a module's `served` runs."""

from collections.abc import AsyncIterator

import openai
import pytest
from tests.interfaces.serving import Served


@pytest.fixture
async def sdk(served: Served) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(base_url=served.url + "/v1", api_key=served.token, max_retries=0) as client:
        yield client
