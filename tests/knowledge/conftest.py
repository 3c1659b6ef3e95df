"""A library with real jobs, and two people of different tenants who use it."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.knowledge.indexed import principal
from tests.knowledge.shelves import Shelf, shelf

from gimle.foundation.db import Database
from gimle.trust.types import Principal


@pytest.fixture
async def house(db: Database, data_dir: Path) -> AsyncIterator[Shelf]:
    async with shelf(db, data_dir) as opened:
        yield opened


@pytest.fixture
def anna(tenants: tuple[str, str]) -> Principal:
    return principal(tenants[0])


@pytest.fixture
def bert(tenants: tuple[str, str]) -> Principal:
    return principal(tenants[1])
