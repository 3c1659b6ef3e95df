-- What the calls of models cost: a slim row an attempt, and its sums by day.

-- One row for each attempt that reached the wire. Nobody changes it: the application may read and add. `id` is a UUIDv7,
-- so that the primary key also serves for "newest first" and for a span of time.
create table call_attempt (
    tenant        text not null default current_setting('app.tenant') references tenant (id) on delete cascade,
    id            uuid not null,
    started_at    timestamptz not null,
    request       text not null,
    key           text not null,
    user_id       text not null,
    case_id       text not null,
    workflow      text not null,
    provider      text not null,
    model         text not null,
    kind          text not null,
    outcome       text not null,
    estimated     boolean not null,     -- no usage was told: the tokens and the cost are what was expected
    uncached      bigint not null,
    cache_read    bigint not null,
    cache_write   bigint not null,
    output        bigint not null,
    reasoning     bigint not null,
    cost_nano     bigint,               -- 10^-9 USD; null where nobody knows the price
    price         text,                 -- which price it was
    seconds       real,
    first_seconds real,
    overhead_seconds real,              -- our own time before the first byte, the queue's included
    primary key (tenant, id)
);
-- A few kB for a million rows, which come in the order of time.
create index call_attempt_started on call_attempt using brin (started_at) with (autosummarize = on);

-- The sums of a day (UTC), moved in the transaction that adds the rows: late ones count on their own day, and none twice.
-- `digest` stands for the columns from `key` to `kind`, which are too long for an index together.
create table cost_day (
    tenant         text not null default current_setting('app.tenant') references tenant (id) on delete cascade,
    day            date not null,
    digest         bytea not null,
    key            text not null default '',
    user_id        text not null default '',
    case_id        text not null default '',
    workflow       text not null default '',
    provider       text not null,
    model          text not null,
    kind           text not null,
    attempts       bigint not null default 0,
    failed         bigint not null default 0,
    estimated      bigint not null default 0,
    unpriced       bigint not null default 0,
    uncached       bigint not null default 0,
    cache_read     bigint not null default 0,
    cache_write    bigint not null default 0,
    output         bigint not null default 0,
    reasoning      bigint not null default 0,
    stored         bigint not null default 0,       -- numbers kept in vectors: chunks × dimensions
    cost_nano      bigint not null default 0,       -- exact and estimated together
    estimated_nano bigint not null default 0,
    primary key (tenant, day, digest)
) with (fillfactor = 70);

do $$
declare
    name text;
begin
    foreach name in array array['call_attempt', 'cost_day'] loop
        execute format('alter table %I enable row level security', name);
        execute format('alter table %I force row level security', name);
        execute format(
            'create policy tenant on %I using (tenant = (select current_setting(''app.tenant'', true)))'
            ' with check (tenant = (select current_setting(''app.tenant'', true)))', name);
    end loop;
end $$;
grant select, insert on call_attempt to gimle_app;
grant select, insert, update on cost_day to gimle_app;
