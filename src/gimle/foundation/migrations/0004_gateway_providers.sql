-- The providers that a tenant has added. `spec` has the schema of the packaged TOML files and holds no key: only the name
-- of the environment variable, or of the file, in which the key lies.
create table provider (
    id text primary key,
    tenant text not null default current_setting('app.tenant') references tenant on delete cascade,
    name text not null,
    spec jsonb not null,
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now(),
    unique (tenant, name)
);
alter table provider enable row level security;
alter table provider force row level security;
create policy tenant on provider
    using (tenant = current_setting('app.tenant', true))
    with check (tenant = current_setting('app.tenant', true));
-- A node keeps all providers in memory, so that a call asks no database. It reads them where no tenant is set; there
-- nothing can be written.
create policy node on provider for select using (coalesce(current_setting('app.tenant', true), '') = '');
grant select, insert, update, delete on provider to gimle_app;
