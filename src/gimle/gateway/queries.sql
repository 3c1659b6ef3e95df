-- name: all_providers
-- The providers of all tenants, for a node's memory.
select id, tenant, name, spec, created_at, updated_at from provider order by tenant, created_at, id;

-- name: insert_provider
-- A new provider; no row when the tenant has one of this name.
insert into provider (id, name, spec) values (%(id)s, %(name)s, %(spec)s)
on conflict (tenant, name) do nothing
returning id, tenant, name, spec, created_at, updated_at;

-- name: update_provider
-- Another specification under the same name.
update provider set spec = %(spec)s, updated_at = now() where name = %(name)s
returning id, tenant, name, spec, created_at, updated_at;

-- name: delete_provider
-- Forget a provider.
delete from provider where name = %(name)s returning id;

-- name: announce_providers
-- Tell all nodes that the providers have changed.
select pg_notify('gimle_providers', %(tenant)s);
