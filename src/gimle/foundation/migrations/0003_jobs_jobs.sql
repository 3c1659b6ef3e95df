-- Durable jobs. The engine's own tables (schema `jobs`) know no tenants: what a tenant may see stands here.

create table job (
    id          text primary key,
    tenant      text not null default current_setting('app.tenant') references tenant (id) on delete cascade,
    kind        text not null,
    queue       text not null,
    status      text not null default 'queued' check (status in ('queued', 'running', 'done', 'failed', 'cancelled')),
    phase       text not null default 'queued',
    done        bigint not null default 0,
    total       bigint not null default 0,
    payload     jsonb not null,
    result      jsonb,
    error       jsonb,
    history     jsonb not null default '[]',
    attempts    integer not null default 0,     -- starts of the handler, all told
    failures    integer not null default 0,     -- failed attempts since the job was enqueued or replayed
    lives       integer not null default 0,     -- starts of this round whose outcome nobody wrote: the worker died
    round       integer not null default 0,     -- the engine's workflow is named `id.round`: one for each attempt
    owner       text,                           -- token of the one attempt that may still write
    created_at  timestamptz not null default now(),
    started_at  timestamptz,
    finished_at timestamptz,
    unique (tenant, id)
);
create index job_newest on job (tenant, id desc);
create index job_by_status on job (tenant, status, id desc);
create index job_finished on job (tenant, finished_at) where finished_at is not null;

-- One row for each effect of a job, committed together with the effect: whoever comes second finds it done.
create table job_effect (
    tenant text not null default current_setting('app.tenant'),
    job    text not null,
    effect text not null,
    result jsonb,
    at     timestamptz not null default now(),
    primary key (tenant, job, effect),
    foreign key (tenant, job) references job (tenant, id) on delete cascade
);

-- Duplicates within 24 h are joined to the first job.
create table job_key (
    tenant     text not null default current_setting('app.tenant'),
    key        text not null,
    job        text not null,
    expires_at timestamptz not null default now() + interval '24 hours',
    primary key (tenant, key),
    foreign key (tenant, job) references job (tenant, id) on delete cascade deferrable initially deferred
);

alter table job enable row level security;
alter table job force row level security;
create policy tenant on job using (tenant = current_setting('app.tenant', true))
    with check (tenant = current_setting('app.tenant', true));
alter table job_effect enable row level security;
alter table job_effect force row level security;
create policy tenant on job_effect using (tenant = current_setting('app.tenant', true))
    with check (tenant = current_setting('app.tenant', true));
alter table job_key enable row level security;
alter table job_key force row level security;
create policy tenant on job_key using (tenant = current_setting('app.tenant', true))
    with check (tenant = current_setting('app.tenant', true));
grant select, insert, update, delete on job, job_effect, job_key to gimle_app;

-- Global: fair share compares tenants. Not granted to gimle_app: only dispatch_job touches it.
create table job_share (
    queue  text not null,
    tenant text not null references tenant (id) on delete cascade,
    spent  integer not null,
    primary key (queue, tenant)
);
create index job_share_furthest on job_share (queue, spent desc);

-- Global: worker processes and when they were last alive. Not granted to gimle_app.
create table job_executor (
    id   text primary key,
    seen timestamptz not null default clock_timestamp()
);

-- Hands one round of a job of the current tenant to the engine, in the caller's transaction. Its priority is the tenant's
-- virtual time: never behind what the queue serves now, and one further for each job the tenant has sent already.
create function dispatch_job(job text, round integer, queue text, after_ms bigint) returns void
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
    owner_tenant text := current_setting('app.tenant');
    floor integer;
    place integer;
begin
    select min(w.priority) - 1 into floor from jobs.workflow_status w
        where w.queue_name = dispatch_job.queue and w.status = 'ENQUEUED';
    if floor is null then
        select max(s.spent) into floor from gimle.job_share s where s.queue = dispatch_job.queue;
    end if;
    insert into gimle.job_share as s (queue, tenant, spent)
        values (dispatch_job.queue, owner_tenant, greatest(coalesce(floor, 0), 0) + 1)
        on conflict on constraint job_share_pkey
        do update set spent = greatest(s.spent, coalesce(floor, 0)) + 1 returning s.spent into place;
    perform jobs.enqueue_workflow(
        workflow_name => 'gimle.job', queue_name => dispatch_job.queue,
        positional_args => array[to_json(dispatch_job.job), to_json(owner_tenant), to_json(dispatch_job.round)],
        workflow_id => dispatch_job.job || '.' || dispatch_job.round, priority => place,
        authenticated_user => owner_tenant, application_name => 'gimle',
        delay_until_epoch_ms => (extract(epoch from clock_timestamp()) * 1000)::bigint + after_ms);
end $$;

-- Takes one round of a job of the current tenant back from the engine. Its worker notices at the next heartbeat.
create function withdraw_job(job text, round integer) returns void
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
    now_ms bigint := (extract(epoch from clock_timestamp()) * 1000)::bigint;
begin
    update jobs.workflow_status w
        set status = 'CANCELLED', owner_xid = null, queue_name = null, started_at_epoch_ms = null,
            updated_at = now_ms, completed_at = now_ms
        where w.workflow_uuid = withdraw_job.job || '.' || withdraw_job.round
            and w.authenticated_user = current_setting('app.tenant') and w.status in ('ENQUEUED', 'PENDING', 'DELAYED');
end $$;
revoke all on function dispatch_job, withdraw_job from public;
grant execute on function dispatch_job, withdraw_job to gimle_app;

-- Every change that a watcher wants to see is told, whoever made it.
create function job_changed() returns trigger language plpgsql as $$
begin
    perform pg_notify('gimle_job', new.id);
    return null;
end $$;
create trigger job_changed after update of status, phase, done, total on job
    for each row execute function job_changed();
