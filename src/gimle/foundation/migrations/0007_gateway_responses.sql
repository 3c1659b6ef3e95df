-- Answers of `/v1/responses`, which callers may ask for again and build on. `items` is the JSON list of what the request
-- has added to the conversation, `reply` the response object as the caller got it: bytes, because jsonb would refuse or
-- rewrite some of what a model may say. `previous` is no foreign key: who deletes a response deletes its words and breaks
-- the conversations that were built on it, and neither takes them along nor leaves them with a hole that nobody sees.
create table response (
    id         text primary key,
    tenant     text not null default current_setting('app.tenant') references tenant (id) on delete cascade,
    previous   text,
    provider   text not null,
    items      bytea not null,
    reply      bytea not null,
    created_at timestamptz not null default now(),
    expires_at timestamptz not null default now() + interval '30 days'
);
create index response_expiry on response (tenant, expires_at);
alter table response enable row level security;
alter table response force row level security;
create policy tenant on response
    using (tenant = (select current_setting('app.tenant', true)))
    with check (tenant = (select current_setting('app.tenant', true)));
grant select, insert, update, delete on response to gimle_app;
