-- name: all_models
-- What all tenants say of models.
select id, tenant, provider, name, kind, spec, created_at, updated_at from model order by id;

-- name: list_models
-- What a tenant says of models, a page by id.
select id, tenant, provider, name, kind, spec, created_at, updated_at from model
where id > %(after)s order by id limit %(limit)s;

-- name: find_model
-- What a tenant says of one model.
select id, tenant, provider, name, kind, spec, created_at, updated_at from model where id = %(id)s;

-- name: insert_model
-- Register a model; no row when this one is registered already.
insert into model (id, provider, name, kind, spec) values (%(id)s, %(provider)s, %(name)s, %(kind)s, %(spec)s)
on conflict (tenant, provider, name, kind) do nothing
returning id, tenant, provider, name, kind, spec, created_at, updated_at;

-- name: put_model
-- Say of a model what its own node says; no row when that is known already.
insert into model as known (id, provider, name, kind, spec)
values (%(id)s, %(provider)s, %(name)s, %(kind)s, %(spec)s)
on conflict (tenant, provider, name, kind) do update set spec = excluded.spec, updated_at = now()
where known.spec <> excluded.spec
returning id, tenant, provider, name, kind, spec, created_at, updated_at;

-- name: retire_models
-- Switch off what a node no longer offers.
update model set spec = spec || '{"enabled": false}', updated_at = now()
where provider = %(provider)s and not name = any(%(names)s) and spec -> 'enabled' is distinct from 'false'
returning id;

-- name: update_model
-- Say something else of a model.
update model set spec = %(spec)s, updated_at = now() where id = %(id)s
returning id, tenant, provider, name, kind, spec, created_at, updated_at;

-- name: delete_model
-- Forget a registration.
delete from model where id = %(id)s returning id;

-- name: announce_models
-- Tell all nodes that the models have changed: they follow the providers, to which these belong.
select pg_notify('gimle_providers', %(tenant)s);

-- name: announce_selection
-- Tell all nodes that a tenant's settings or judgements have changed.
select pg_notify('gimle_selection', %(tenant)s);

-- name: all_selection_settings
-- The policies and weights of all tenants.
select tenant, policy, weights from selection_setting;

-- name: put_selection_setting
-- Decide a tenant's calls by another policy.
insert into selection_setting (policy, weights) values (%(policy)s, %(weights)s)
on conflict (tenant) do update set policy = excluded.policy, weights = excluded.weights, updated_at = now();

-- name: all_quality
-- All judgements, summed, or a tenant's.
select tenant, subject, model, good, bad, extract(epoch from at)::float8 as at from model_quality
where %(tenant)s::text is null or tenant = %(tenant)s;

-- name: add_judgement
-- Add a judgement to the sums, which fade by half in two weeks, or take one back, which is below 0.
insert into model_quality as known (subject, model, good, bad, at)
values (%(subject)s, %(model)s, %(good)s, %(bad)s, to_timestamp(%(at)s))
on conflict (tenant, subject, model) do update set
    good = greatest(0, excluded.good
        + known.good * power(0.5, greatest(0, extract(epoch from excluded.at - known.at)) / 1209600)),
    bad = greatest(0, excluded.bad
        + known.bad * power(0.5, greatest(0, extract(epoch from excluded.at - known.at)) / 1209600)),
    at = greatest(known.at, excluded.at);

-- name: insert_decisions
-- Keep decisions, with what has come of them so far.
insert into decision (id, decided_at, body, model, quality, cost_nano, seconds, failed)
select * from unnest(
    %(id)s::text[], %(decided_at)s::timestamptz[], %(body)s::jsonb[], %(model)s::text[], %(quality)s::real[],
    %(cost_nano)s::bigint[], %(seconds)s::real[], %(failed)s::boolean[])
on conflict (tenant, id) do nothing;

-- name: settle_decision
-- What came of a decision; what people have said of the answer stands.
update decision set model = %(model)s, cost_nano = %(cost_nano)s, seconds = %(seconds)s, failed = %(failed)s,
    quality = coalesce(quality, %(quality)s)
where id = %(id)s;

-- name: judge_decision
-- How good the answer was; the last word counts.
update decision set quality = %(quality)s, judged = %(judged)s where id = %(id)s;

-- name: judged_before
-- What was said of a call's answers until now; nobody else judges them meanwhile.
select judged from decision where id = %(id)s for update;

-- name: find_decision
-- One decision and what came of it.
select id, body, model, quality, cost_nano, seconds, failed from decision where id = %(id)s;

-- name: list_decisions
-- Decisions and what came of them, the newest first.
select id, body, model, quality, cost_nano, seconds, failed from decision
where %(before)s::text is null or id < %(before)s order by id desc limit %(limit)s;

-- name: sweep_decisions
-- Forget what is older than is kept.
delete from decision where decided_at < now() - make_interval(days => %(days)s);

-- name: put_fact
-- What a process has measured of a model.
insert into model_fact (writer, model, facts) values (%(writer)s, %(model)s, %(facts)s)
on conflict (writer, model) do update set facts = excluded.facts, updated_at = now();

-- name: new_facts
-- What other processes have measured since a moment, and the moment of the latest.
select writer, model, facts, extract(epoch from updated_at)::float8 as updated_at from model_fact
where writer <> %(writer)s and updated_at > to_timestamp(%(since)s) order by updated_at;

-- name: sweep_facts
-- Forget what was measured so long ago that it says nothing.
delete from model_fact where updated_at < now() - interval '1 day';

-- name: take_probe
-- Be the one that probes now; no row when another has probed a short while ago.
update probe_clock set ran_at = now() where ran_at < now() - make_interval(secs => %(seconds)s) returning one;
