-- name: all_allowances
-- The allowances of all tenants, for a node's memory.
select * from allowance order by tenant, id;

-- name: put_allowance
-- What somebody is allowed, anew or instead of what was.
insert into allowance (id, scope, subject, requests_minute, tokens_minute, embeddings_day, storage_bytes, cache_seconds)
values (%(id)s, %(scope)s, %(subject)s, %(requests_minute)s, %(tokens_minute)s, %(embeddings_day)s, %(storage_bytes)s,
    %(cache_seconds)s)
on conflict (tenant, scope, subject) do update set requests_minute = excluded.requests_minute,
    tokens_minute = excluded.tokens_minute, embeddings_day = excluded.embeddings_day,
    storage_bytes = excluded.storage_bytes, cache_seconds = excluded.cache_seconds, updated_at = now()
returning *;

-- name: list_allowances
-- A page of a tenant's allowances.
select * from allowance where id > %(after)s order by id limit %(limit)s;

-- name: delete_allowance
-- Back to what the settings say.
delete from allowance where id = %(id)s returning id;

-- name: tell_allowances
-- Tell all nodes that allowances have changed.
select pg_notify('gimle_allowances', '');

-- name: ensure_embedding_quota
-- The quota of vectors a day: a budget of pieces, whose amount follows the tenant's allowance.
insert into budget (id, name, unit, scope, period, amount, mode)
values (%(id)s, 'embeddings a day', 'embeddings', 'tenant', 'day', %(amount)s, 'strict')
on conflict (tenant, unit, scope, subject, period) do update set amount = excluded.amount, updated_at = now()
where budget.amount <> excluded.amount
returning id;

-- name: ensure_cache_secret
-- The secret of an installation, made by whoever comes first.
insert into cache_secret (secret) values (%(secret)s) on conflict do nothing;

-- name: cache_secret
-- The secret with which the keys of kept answers are made.
select secret from cache_secret;
