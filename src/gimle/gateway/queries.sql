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

-- name: as_tenant
-- From here on the transaction is of this tenant.
select set_config('app.tenant', %(tenant)s, true);

-- name: post_attempts
-- Add attempts of the transaction's tenant and move the sums of their days; those known already change nothing. Gives
-- how many were new; null when the tenant is gone, whose attempts nobody can own.
with posted as (
    insert into call_attempt (
        id, started_at, request, key, user_id, case_id, workflow, provider, model, kind, outcome, estimated,
        uncached, cache_read, cache_write, output, reasoning, cost_nano, price, seconds, first_seconds,
        overhead_seconds)
    select
        f.id, to_timestamp(f.started), f.request, f.key, f.user_id, f.case_id, f.workflow, f.provider, f.model, f.kind,
        f.outcome, f.estimated, f.uncached, f.cache_read, f.cache_write, f.output, f.reasoning, f.cost_nano, f.price,
        f.seconds, f.first_seconds, f.overhead_seconds
    from json_to_recordset(%(facts)s::json) as f(
        id uuid, started float8, request text, key text, user_id text, case_id text, workflow text, provider text,
        model text, kind text, outcome text, estimated boolean, uncached bigint, cache_read bigint, cache_write bigint,
        output bigint, reasoning bigint, cost_nano bigint, price text, seconds real, first_seconds real,
        overhead_seconds real)
    where exists (select from tenant t where t.id = current_setting('app.tenant'))
    order by f.id
    on conflict (tenant, id) do nothing
    returning *
), summed as (
    select
        (started_at at time zone 'UTC')::date as day,
        sha256(convert_to(json_build_array(key, user_id, case_id, workflow, provider, model, kind)::text, 'UTF8'))
            as digest,
        key, user_id, case_id, workflow, provider, model, kind,
        count(*) as attempts,
        count(*) filter (where outcome in ('refused', 'broken', 'unknown')) as failed,
        count(*) filter (where estimated) as estimated,
        count(*) filter (where cost_nano is null) as unpriced,
        sum(uncached)::bigint as uncached, sum(cache_read)::bigint as cache_read,
        sum(cache_write)::bigint as cache_write, sum(output)::bigint as output, sum(reasoning)::bigint as reasoning,
        coalesce(sum(cost_nano), 0)::bigint as cost_nano,
        coalesce(sum(cost_nano) filter (where estimated), 0)::bigint as estimated_nano
    from posted group by day, digest, key, user_id, case_id, workflow, provider, model, kind
), moved as (
    insert into cost_day as d (
        day, digest, key, user_id, case_id, workflow, provider, model, kind, attempts, failed, estimated, unpriced,
        uncached, cache_read, cache_write, output, reasoning, cost_nano, estimated_nano)
    select
        day, digest, key, user_id, case_id, workflow, provider, model, kind, attempts, failed, estimated, unpriced,
        uncached, cache_read, cache_write, output, reasoning, cost_nano, estimated_nano
    -- All writers lock the sums in one order.
    from summed order by day, digest
    on conflict (tenant, day, digest) do update set
        attempts = d.attempts + excluded.attempts, failed = d.failed + excluded.failed,
        estimated = d.estimated + excluded.estimated, unpriced = d.unpriced + excluded.unpriced,
        uncached = d.uncached + excluded.uncached, cache_read = d.cache_read + excluded.cache_read,
        cache_write = d.cache_write + excluded.cache_write, output = d.output + excluded.output,
        reasoning = d.reasoning + excluded.reasoning, cost_nano = d.cost_nano + excluded.cost_nano,
        estimated_nano = d.estimated_nano + excluded.estimated_nano
)
select case when exists (select from tenant t where t.id = current_setting('app.tenant'))
    then (select count(*) from posted) end as new;

-- name: charge_storage
-- What a tenant keeps today and what that costs for the day; a later count on the same day takes its place.
insert into cost_day (day, digest, provider, model, kind, stored, cost_nano)
select %(day)s, sha256('storage'), 'gimle', 'storage', 'storage', %(stored)s, %(nano)s
where exists (select from tenant t where t.id = current_setting('app.tenant'))
on conflict (tenant, day, digest) do update set stored = excluded.stored, cost_nano = excluded.cost_nano;

-- name: costs
-- A page of sums, by as many of the columns as are asked for; the others are ''.
select * from (
    select
        case when %(by_day)s then day::text else '' end as day,
        case when %(by_key)s then key else '' end as key,
        case when %(by_user)s then user_id else '' end as "user",
        case when %(by_case)s then case_id else '' end as "case",
        case when %(by_workflow)s then workflow else '' end as workflow,
        case when %(by_model)s then provider || '/' || model else '' end as model,
        case when %(by_kind)s then kind else '' end as kind,
        sum(attempts)::bigint as attempts, sum(failed)::bigint as failed, sum(estimated)::bigint as estimated,
        sum(unpriced)::bigint as unpriced, sum(uncached)::bigint as uncached, sum(cache_read)::bigint as cache_read,
        sum(cache_write)::bigint as cache_write, sum(output)::bigint as output, sum(reasoning)::bigint as reasoning,
        max(stored)::bigint as stored, sum(cost_nano)::bigint as cost_nano,
        sum(estimated_nano)::bigint as estimated_nano
    from cost_day
    where day >= %(since)s::date and day <= %(until)s::date
        and (%(key)s::text is null or key = %(key)s) and (%(user)s::text is null or user_id = %(user)s)
        and (%(case)s::text is null or case_id = %(case)s) and (%(workflow)s::text is null or workflow = %(workflow)s)
        and (%(model)s::text is null or provider || '/' || model = %(model)s)
        and (%(kind)s::text is null or kind = %(kind)s)
    group by 1, 2, 3, 4, 5, 6, 7
) as summed
where %(after)s::text[] is null
    or array[day, key, "user", "case", workflow, model, kind] collate "C" > %(after)s::text[] collate "C"
order by array[day, key, "user", "case", workflow, model, kind] collate "C"
limit %(limit)s;

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
