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

-- name: insert_response
-- Keep an answer, and those that it is built on as long as itself.
with recursive chain as (
    select id, previous from response where id = %(previous)s::text
    union
    select r.id, r.previous from response r join chain on r.id = chain.previous
), renewed as (
    -- Once a day is often enough.
    update response set expires_at = now() + interval '30 days'
    where id in (select id from chain) and expires_at < now() + interval '29 days'
)
insert into response (id, previous, provider, items, reply)
values (%(id)s, %(previous)s, %(provider)s, %(items)s, %(reply)s);

-- name: find_response
-- One answer that has not expired.
select id, previous, provider, items, reply from response where id = %(id)s and expires_at > now();

-- name: response_chain
-- An answer and all that it is built on, the oldest first.
with recursive chain as (
    select r.*, 1 as depth from response r where r.id = %(id)s and r.expires_at > now()
    union all
    select r.*, chain.depth + 1 from response r join chain on r.id = chain.previous where r.expires_at > now()
)
select id, previous, provider, items, reply from chain order by depth desc;

-- name: delete_response
-- Forget an answer.
delete from response where id = %(id)s and expires_at > now() returning id;

-- name: sweep_responses
-- Forget what has expired.
delete from response where expires_at <= now();

-- name: insert_query
-- A query that its job will ask.
insert into query (id, job, request) values (%(id)s, %(job)s, %(request)s);

-- name: query_of_job
-- The query that a job asks.
select id, request from query where job = %(job)s;

-- name: query_status
-- How far a query is.
select q.id, q.job, j.status, j.phase, j.attempts, j.error, coalesce(q.request->'metadata', '{}') as metadata,
    q.created_at, j.started_at, j.finished_at
from query q join job j on j.id = q.job where q.id = %(id)s;

-- name: query_asked
-- What a job has to ask, and the answer if an earlier attempt has kept one.
select request, response from query where id = %(id)s;

-- name: keep_answer
-- Keeps the answer of a query, once.
update query set response = %(response)s where id = %(id)s and response is null;

-- name: lock_content
-- Hold, until the transaction ends, what has this hash: it is not deleted while it is uploaded again.
select pg_advisory_xact_lock(hashtextextended(current_setting('app.tenant') || %(sha256)s, 0));

-- name: insert_file
-- A new file.
insert into file (id, name, purpose, media_type, size, sha256)
values (%(id)s, %(name)s, %(purpose)s, %(media_type)s, %(size)s, %(sha256)s)
returning id, name, purpose, media_type, size, sha256, created_at;

-- name: find_file
-- One file.
select id, name, purpose, media_type, size, sha256, created_at from file where id = %(id)s;

-- name: list_files
-- A page of files, the newest first.
select id, name, purpose, media_type, size, sha256, created_at from file
where (%(after)s::text is null or id < %(after)s) and (%(purpose)s::text is null or purpose = %(purpose)s)
order by id desc limit %(limit)s;

-- name: list_files_up
-- A page of files, the oldest first.
select id, name, purpose, media_type, size, sha256, created_at from file
where (%(after)s::text is null or id > %(after)s) and (%(purpose)s::text is null or purpose = %(purpose)s)
order by id limit %(limit)s;

-- name: delete_file
-- Forget a file.
delete from file where id = %(id)s returning sha256;

-- name: has_content
-- Whether another file has the same content.
select exists (select from file where sha256 = %(sha256)s);
