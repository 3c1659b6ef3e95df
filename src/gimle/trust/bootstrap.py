"""The first start: a tenant named `default`, and an admin key that lies in the data directory."""

from pathlib import Path

from gimle.foundation.errors import Conflict
from gimle.trust.keys import KeyRing, Keys
from gimle.trust.tenants import Tenants

FIRST_TENANT = "default"


async def ensure_admin_key(data: Path, tenants: Tenants, keys: Keys, ring: KeyRing) -> Path:
    """The file `<data>/admin.key` (mode 0600) with a key that works; it is made anew when it is missing or dead."""
    file = data / "admin.key"
    if file.exists() and ring.principal(file.read_text().strip()) is not None:
        return file
    try:
        tenant = (await tenants.create(FIRST_TENANT)).id
    except Conflict:
        tenant = (await tenants.find(FIRST_TENANT)).id
    created = await keys.create(tenant, f"admin of {data}"[:200], admin=True)
    assert created.token is not None
    data.mkdir(parents=True, exist_ok=True, mode=0o700)
    unfinished = file.with_suffix(".part")
    unfinished.unlink(missing_ok=True)
    unfinished.touch(mode=0o600)
    unfinished.write_text(created.token + "\n")
    unfinished.rename(file)
    await ring.refresh()
    return file
