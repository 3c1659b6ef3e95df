-- Global: the tenants themselves, read before any tenant is known.
create table tenant (
    id text primary key,
    name text not null unique check (name <> ''),
    created_at timestamptz not null default now()
);
grant select, insert, update, delete on tenant to gimle_app;

-- Global: a key is what tells us the tenant. Only a hash of its secret half is kept.
create table api_key (
    id text primary key,
    tenant text not null references tenant on delete cascade,
    name text not null,
    secret_sha256 bytea not null check (length(secret_sha256) = 32),
    admin boolean not null default false,
    created_at timestamptz not null default now(),
    expires_at timestamptz,
    revoked_at timestamptz
);
create index api_key_tenant on api_key (tenant);
grant select, insert, update, delete on api_key to gimle_app;
