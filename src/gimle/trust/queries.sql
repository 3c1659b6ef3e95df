-- name: insert_tenant
-- Create a tenant; no row comes back when the name is taken.
insert into tenant (id, name) values (%(id)s, %(name)s) on conflict (name) do nothing returning *;

-- name: list_tenants
-- One page of the tenants, in the order of their making.
select * from tenant where id > %(after)s order by id limit %(limit)s;

-- name: tenant
-- One tenant by id or by name.
select * from tenant where id = %(tenant)s or name = %(tenant)s;

-- name: insert_key
-- Keep the hash of a new key.
insert into api_key (id, tenant, name, secret_sha256, admin, expires_at)
values (%(id)s, %(tenant)s, %(name)s, %(secret_sha256)s, %(admin)s, %(expires_at)s)
returning id, tenant, name, admin, created_at, expires_at, revoked_at;

-- name: list_keys
-- One page of a tenant's keys, in the order of their making.
select id, tenant, name, admin, created_at, expires_at, revoked_at from api_key
where tenant = %(tenant)s and id > %(after)s order by id limit %(limit)s;

-- name: revoke_key
-- End a key; a second time changes nothing.
update api_key set revoked_at = coalesce(revoked_at, now()) where id = %(id)s and tenant = %(tenant)s
returning id, tenant, name, admin, created_at, expires_at, revoked_at;

-- name: live_keys
-- All keys that open a door now, for the index in memory.
select id, tenant, secret_sha256, admin, expires_at from api_key
where revoked_at is null and (expires_at is null or expires_at > now());

-- name: announce
-- Tell every node that the keys have changed.
select pg_notify('gimle_keys', '');
