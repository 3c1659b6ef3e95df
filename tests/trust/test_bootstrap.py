import stat
from pathlib import Path

from gimle.foundation.db import Database
from gimle.trust.bootstrap import ensure_admin_key
from gimle.trust.keys import KeyRing, Keys
from gimle.trust.tenants import Tenants


async def test_the_first_start_makes_a_key_and_the_next_ones_keep_it(db: Database, data_dir: Path) -> None:
    ring, keys, tenants = KeyRing(db), Keys(db), Tenants(db)
    file = await ensure_admin_key(data_dir, tenants, keys, ring)
    token = file.read_text().strip()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    principal = ring.principal(token)
    assert principal is not None
    assert principal.admin
    assert (await ensure_admin_key(data_dir, tenants, keys, ring)).read_text().strip() == token


async def test_a_dead_key_is_replaced(db: Database, data_dir: Path) -> None:
    ring, keys, tenants = KeyRing(db), Keys(db), Tenants(db)
    file = await ensure_admin_key(data_dir, tenants, keys, ring)
    old = ring.principal(file.read_text().strip())
    assert old is not None
    await keys.revoke(old.tenant, old.key)
    await ring.refresh()
    await ensure_admin_key(data_dir, tenants, keys, ring)
    new = ring.principal(file.read_text().strip())
    assert new is not None
    assert (new.tenant, new.key != old.key) == (old.tenant, True)
