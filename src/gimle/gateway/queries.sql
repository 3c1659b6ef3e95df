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

-- name: insert_query
-- A query that its job will ask.
insert into query (id, job, request) values (%(id)s, %(job)s, %(request)s)

-- name: query_of_job
-- The query that a job asks.
select id, request from query where job = %(job)s

-- name: query_status
-- How far a query is.
select q.id, q.job, j.status, j.phase, j.attempts, j.error, coalesce(q.request->'metadata', '{}') as metadata,
    q.created_at, j.started_at, j.finished_at
from query q join job j on j.id = q.job where q.id = %(id)s

-- name: query_asked
-- What a job has to ask, and the answer if an earlier attempt has kept one.
select request, response from query where id = %(id)s

-- name: keep_answer
-- Keeps the answer of a query, once.
update query set response = %(response)s where id = %(id)s and response is null
