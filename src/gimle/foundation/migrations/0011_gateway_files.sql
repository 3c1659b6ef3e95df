-- Files that callers upload under `/v1/files`, to name them in requests by their id. The bytes lie in the object store,
-- once a tenant, under their hash.
create table file (
    id         text primary key,
    tenant     text not null default current_setting('app.tenant') references tenant (id) on delete cascade,
    name       text not null,
    purpose    text not null,
    media_type text not null,
    size       bigint not null,
    sha256     text not null,
    created_at timestamptz not null default now()
);
create index file_of_tenant on file (tenant, id);
create index file_content on file (tenant, sha256);
alter table file enable row level security;
alter table file force row level security;
create policy tenant on file
    using (tenant = (select current_setting('app.tenant', true)))
    with check (tenant = (select current_setting('app.tenant', true)));
grant select, insert, delete on file to gimle_app;
