"""Gateways over providers that can fail."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.gateway.calls import opened, provider

from gimle.gateway.gateway import Gateway
from gimle.testing import Upstream


@pytest.fixture
async def gateway(upstream: Upstream, tmp_path: Path) -> AsyncIterator[Gateway]:
    async with opened(tmp_path, {"mock": provider(upstream)}) as gateway:
        yield gateway


@pytest.fixture
async def pair(upstream: Upstream, second: Upstream, tmp_path: Path) -> AsyncIterator[Gateway]:
    """Two providers of the model `mock`, the first preferred."""
    providers = {"first": provider(upstream, context_window=1000), "second": provider(second, context_window=9000)}
    async with opened(tmp_path, providers) as gateway:
        yield gateway


@pytest.fixture
async def third() -> AsyncIterator[Upstream]:
    async with Upstream() as standing:
        yield standing
