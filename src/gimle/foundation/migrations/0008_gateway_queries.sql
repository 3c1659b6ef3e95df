-- Model calls that outlive the request which made them: what was asked, and the answer when there is one. A query lives as
-- long as its job, which says how far it is.
create table query (
    id         text primary key,
    tenant     text not null default current_setting('app.tenant') references tenant (id) on delete cascade,
    job        text not null,
    request    jsonb not null,
    response   jsonb,
    created_at timestamptz not null default now(),
    unique (tenant, job),
    foreign key (tenant, job) references job (tenant, id) on delete cascade
);
alter table query enable row level security;
alter table query force row level security;
create policy tenant on query using (tenant = current_setting('app.tenant', true))
    with check (tenant = current_setting('app.tenant', true));
grant select, insert, update, delete on query to gimle_app;
