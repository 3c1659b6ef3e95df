-- Which models there are, what is known of them, what was decided, and how good the answers were.

-- What a tenant says of models: of one that its provider lists too, or of one more. `spec` has the fields of `ModelSpec`.
create table model (
    id         text primary key,
    tenant     text not null default current_setting('app.tenant') references tenant on delete cascade,
    provider   text not null,
    name       text not null,
    kind       text not null,
    spec       jsonb not null,
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now(),
    unique (tenant, provider, name, kind)
);

-- By which policy and weights a tenant's calls are decided, where it has said so.
create table selection_setting (
    tenant     text primary key default current_setting('app.tenant') references tenant on delete cascade,
    policy     text not null,
    weights    jsonb not null,
    updated_at timestamptz not null default now()
);

-- Good and bad answers of a model to a class of requests, as worth at the moment `at`; they fade by half in two weeks.
create table model_quality (
    tenant  text not null default current_setting('app.tenant') references tenant on delete cascade,
    subject text not null,
    model   text not null,
    good    double precision not null,
    bad     double precision not null,
    at      timestamptz not null,
    primary key (tenant, subject, model)
);

-- Decisions, and what came of them. Ids are UUIDv7, so that the primary key serves for "newest first".
create table decision (
    tenant     text not null default current_setting('app.tenant') references tenant on delete cascade,
    id         text not null,
    decided_at timestamptz not null,
    body       jsonb not null,
    model      text,                -- who answered
    quality    real,                -- 0 to 1; null while nobody has judged
    cost_nano  bigint,
    seconds    real,
    failed     boolean not null default false,
    primary key (tenant, id)
);
create index decision_decided on decision using brin (decided_at) with (autosummarize = on);

-- What each process has measured, for the others and for itself after a restart. A model is named by a digest.
create table model_fact (
    writer     text not null,
    model      text not null,
    facts      jsonb not null,
    updated_at timestamptz not null default now(),
    primary key (writer, model)
);
create index model_fact_updated on model_fact (updated_at);

-- When providers were last probed: who moves it is the one that probes.
create table probe_clock (
    one    boolean primary key default true check (one),
    ran_at timestamptz not null
);
insert into probe_clock (ran_at) values ('epoch');

do $$
declare
    name text;
begin
    foreach name in array array['model', 'selection_setting', 'model_quality', 'decision'] loop
        execute format('alter table %I enable row level security', name);
        execute format('alter table %I force row level security', name);
        execute format(
            'create policy tenant on %I using (tenant = (select current_setting(''app.tenant'', true)))'
            ' with check (tenant = (select current_setting(''app.tenant'', true)))', name);
        if name <> 'decision' then
            -- A node keeps these in memory, so that a call asks no database. It reads them where no tenant is set.
            execute format(
                'create policy node on %I for select'
                ' using (coalesce((select current_setting(''app.tenant'', true)), '''') = '''')', name);
        end if;
    end loop;
end $$;
grant select, insert, update, delete on model, selection_setting, model_quality, decision, model_fact to gimle_app;
grant select, update on probe_clock to gimle_app;
