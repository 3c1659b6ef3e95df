-- What may be spent: budgets, what their holders have taken of them, and what was spent in each period.

-- `amount` and all sums below are nano-dollars, or pieces where `unit` says so. A node keeps all budgets in memory.
create table budget (
    id                text primary key,
    tenant            text not null default current_setting('app.tenant') references tenant (id) on delete cascade,
    name              text not null default '',
    unit              text not null default 'usd' check (unit in ('usd', 'embeddings')),
    scope             text not null check (scope in ('tenant', 'key', 'user', 'model', 'case')),
    subject           text not null default '',
    period            text not null check (period in ('hour', 'day', 'week', 'month', 'total')),
    anchor            timestamptz,          -- where periods are counted from; null: the calendar's, in UTC
    amount            bigint not null check (amount >= 0),
    mode              text not null default 'strict' check (mode in ('strict', 'overdraft')),
    webhook           text,
    downgrade_percent integer check (downgrade_percent between 1 and 100),
    downgrade_model   text,
    created_at        timestamptz not null default now(),
    updated_at        timestamptz not null default now(),
    unique (tenant, unit, scope, subject, period),
    unique (tenant, id)
);

-- One row a budget and period, locked by whoever takes of it. `unknown` is the part of `spent` that was entered for
-- holders who died without a word: the most that they could have spent.
create table budget_period (
    tenant    text not null default current_setting('app.tenant'),
    budget    text not null,
    starts_at timestamptz not null,
    ends_at   timestamptz not null,
    spent     bigint not null default 0,
    unknown   bigint not null default 0,
    alerted   integer not null default 0,
    primary key (tenant, budget, starts_at),
    foreign key (tenant, budget) references budget (tenant, id) on delete cascade
);

-- What one process has taken, and how much of that it has spent, both since the lease began. The rest is its to spend
-- until `expires_at`; it is asked for no round trip meanwhile.
create table budget_lease (
    id         text primary key,
    tenant     text not null default current_setting('app.tenant'),
    budget     text not null,
    starts_at  timestamptz not null,
    granted    bigint not null default 0,
    spent      bigint not null default 0,
    expires_at timestamptz not null,
    foreign key (tenant, budget, starts_at) references budget_period (tenant, budget, starts_at) on delete cascade
);
create index budget_lease_period on budget_lease (tenant, budget, starts_at);
create index budget_lease_expiry on budget_lease (expires_at);

-- What a tenant, a key or a model of a tenant is allowed, where that is not what the settings say: null is the setting, or
-- no limit of its own. A node keeps all of them in memory.
create table allowance (
    id              text primary key,
    tenant          text not null default current_setting('app.tenant') references tenant (id) on delete cascade,
    scope           text not null check (scope in ('tenant', 'key', 'model')),
    subject         text not null default '',
    requests_minute bigint check (requests_minute >= 0),
    tokens_minute   bigint check (tokens_minute >= 0),
    embeddings_day  bigint check (embeddings_day >= 0),
    storage_bytes   bigint check (storage_bytes >= 0),
    created_at      timestamptz not null default now(),
    updated_at      timestamptz not null default now(),
    unique (tenant, scope, subject)
);
do $$
declare
    name text;
begin
    foreach name in array array['budget', 'budget_period', 'budget_lease', 'allowance'] loop
        execute format('alter table %I enable row level security', name);
        execute format('alter table %I force row level security', name);
        execute format(
            'create policy tenant on %I using (tenant = (select current_setting(''app.tenant'', true)))'
            ' with check (tenant = (select current_setting(''app.tenant'', true)))', name);
    end loop;
end $$;
-- A node reads all budgets, and finds the leases of the dead, where no tenant is set; there nothing can be written.
create policy node on budget for select using (coalesce(current_setting('app.tenant', true), '') = '');
create policy node on allowance for select using (coalesce(current_setting('app.tenant', true), '') = '');
create policy node on budget_lease for select using (coalesce(current_setting('app.tenant', true), '') = '');
grant select, insert, update, delete on budget, budget_period, budget_lease, allowance to gimle_app;

-- A holder's turn, in a transaction of its tenant: it tells what it has spent since the lease began (`total`), and what it
-- would like to have been granted since then (`wish`); less than it has means that it gives the rest back. `fresh`: the lease
-- begins now. `closing`: it ends, and what is free goes back. `short`: a call was refused. No row: the budget is gone.
-- `granted` null: the lease was taken for dead and is gone, and all that it held counts as spent.
create function budget_turn(
    of_lease text, of_budget text, since timestamptz, until timestamptz, total bigint, wish bigint, seconds integer,
    fresh boolean, closing boolean, short boolean
) returns table (granted bigint, spent bigint, leased bigint, amount bigint, alert integer)
language plpgsql set search_path = gimle, pg_temp as $$
declare
    whole bigint;
    period budget_period;
    mine budget_lease;
    others bigint;
    told integer := 0;
begin
    select b.amount into whole from budget b where b.id = of_budget;
    if not found then
        return;
    end if;
    insert into budget_period (budget, starts_at, ends_at) values (of_budget, since, until) on conflict do nothing;
    select * into period from budget_period p where p.budget = of_budget and p.starts_at = since for update;
    if fresh then
        insert into budget_lease (id, budget, starts_at, expires_at)
            values (of_lease, of_budget, since, now() + make_interval(secs => seconds)) on conflict do nothing;
    end if;
    select * into mine from budget_lease l where l.id = of_lease for update;
    select coalesce(sum(l.granted - l.spent), 0) into others from budget_lease l
        where l.budget = of_budget and l.starts_at = since and l.id <> of_lease;
    if mine.id is null then
        return query select null::bigint, period.spent, others, whole, 0;
        return;
    end if;
    period.spent := period.spent + total - mine.spent;
    mine.granted := greatest(mine.granted, total);
    if closing then
        delete from budget_lease l where l.id = of_lease;
        mine.granted := total;
    else
        mine.granted := case when wish <= mine.granted then greatest(wish, total) else
            mine.granted + greatest(0, least(wish - mine.granted, whole - period.spent - others - mine.granted + total)) end;
        update budget_lease l set granted = mine.granted, spent = total, expires_at = now() + make_interval(secs => seconds)
            where l.id = of_lease;
    end if;
    told := case when period.spent >= whole or (short and period.spent * 100 >= whole * 95) then 100
        when period.spent * 100 >= whole * 80 then 80 else 0 end;
    update budget_period p set spent = period.spent, alerted = greatest(p.alerted, told)
        where p.budget = of_budget and p.starts_at = since;
    return query select mine.granted, period.spent, others, whole, case when told > period.alerted then told else 0 end;
end $$;

-- Ends the lease of a holder that has died. `used` is what it had spent and reserved, where that is known; else all that it
-- held counts as spent. Returns what is usable again.
create function budget_sweep(of_lease text, used bigint) returns bigint
language plpgsql set search_path = gimle, pg_temp as $$
declare
    mine budget_lease;
    gone bigint;
begin
    select * into mine from budget_lease l where l.id = of_lease;
    if not found then
        return null;
    end if;
    perform from budget_period p where p.budget = mine.budget and p.starts_at = mine.starts_at for update;
    delete from budget_lease l where l.id = of_lease and (used is not null or l.expires_at < now()) returning * into mine;
    if not found then
        return null;
    end if;
    gone := greatest(coalesce(used, mine.granted), mine.spent);
    update budget_period p set spent = p.spent + gone - mine.spent,
            unknown = p.unknown + case when used is null then gone - mine.spent else 0 end
        where p.budget = mine.budget and p.starts_at = mine.starts_at;
    return greatest(mine.granted - gone, 0);
end $$;
