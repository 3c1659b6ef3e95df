"""A model that must be loaded, or that reads slowly, is given the time which its provider asks for."""

from pathlib import Path

import pytest
from tests.gateway.calls import ANNA, call, opened, provider, read, streamed

from gimle.foundation.errors import UpstreamTimeout
from gimle.testing import Behaviour, Upstream


async def test_a_providers_own_patience_counts(tmp_path: Path) -> None:
    async with Upstream(Behaviour(head_delay=0.8)) as upstream:
        async with opened(tmp_path, {"mock": {**provider(upstream), "first_token_seconds": 4.0}}) as gateway:
            assert b"[DONE]" in await read(streamed(await gateway.chat(ANNA, call(stream=True))))
        async with opened(tmp_path, {"mock": provider(upstream)}) as gateway:
            with pytest.raises(UpstreamTimeout):
                await gateway.chat(ANNA, call(stream=True))
