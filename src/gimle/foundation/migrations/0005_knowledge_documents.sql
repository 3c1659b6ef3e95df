-- Collections, the versions of their documents, and the chunks these are cut into.
-- Foreign keys carry the tenant, because the check of a foreign key does not pass through row-level security.

create table collection (
    id         text primary key,
    tenant     text not null default current_setting('app.tenant') references tenant (id) on delete cascade,
    name       text not null check (length(name) between 1 and 128),
    space      text,
    created_at timestamptz not null default now(),
    unique (tenant, name),
    unique (tenant, id)
);

create table document (
    id         text primary key,
    tenant     text not null default current_setting('app.tenant'),
    collection text not null,
    name       text not null check (length(name) between 1 and 255),
    media_type text not null,
    size       bigint not null check (size > 0),
    sha256     text not null check (length(sha256) = 64),
    version    integer not null check (version > 0),
    is_latest  boolean not null default false,
    status     text not null default 'pending' check (status in ('pending', 'ready', 'failed')),
    phase      text not null default 'queued',
    language   text,
    error      text,
    pages      integer,
    chunks     integer not null default 0,
    job        text,
    text       text,
    layout     jsonb,
    created_at timestamptz not null default now(),
    ready_at   timestamptz,
    unique (tenant, id),
    unique (tenant, collection, name, version),
    foreign key (tenant, collection) references collection (tenant, id) on delete cascade,
    check (not is_latest or status = 'ready'),
    -- One serving version a name. Checked at the end of the statement, so that one update can move the mark.
    constraint document_one_latest exclude using btree (tenant with =, collection with =, name with =)
        where (is_latest) deferrable initially immediate
);

create index document_content on document (tenant, collection, sha256);
create index document_object on document (tenant, sha256);
create index document_newest on document (tenant, collection, id desc);

-- Which document an idempotency key made, and the hash of the request that it came with.
create table upload_key (
    tenant     text not null default current_setting('app.tenant'),
    key        text not null,
    document   text not null,
    request    text not null,
    created_at timestamptz not null default now(),
    primary key (tenant, key),
    foreign key (tenant, document) references document (tenant, id) on delete cascade
);
create index upload_key_document on upload_key (document);

create sequence chunk_number;

create table chunk (
    id         text primary key,
    number     bigint not null unique,
    tenant     text not null default current_setting('app.tenant'),
    collection text not null,
    document   text not null,
    ordinal    integer not null,
    text       text not null,
    start_char integer not null,
    end_char   integer not null check (end_char > start_char),
    page       integer,
    heading    text,
    language   text not null default 'und',
    unique (tenant, id),
    unique (tenant, document, ordinal),
    foreign key (tenant, collection) references collection (tenant, id) on delete cascade,
    foreign key (tenant, document) references document (tenant, id) on delete cascade
);

create index chunk_collection on chunk (tenant, collection);

alter table collection enable row level security;
alter table collection force row level security;
create policy tenant on collection using (tenant = current_setting('app.tenant', true))
    with check (tenant = current_setting('app.tenant', true));
alter table document enable row level security;
alter table document force row level security;
create policy tenant on document using (tenant = current_setting('app.tenant', true))
    with check (tenant = current_setting('app.tenant', true));
alter table chunk enable row level security;
alter table chunk force row level security;
create policy tenant on chunk using (tenant = current_setting('app.tenant', true))
    with check (tenant = current_setting('app.tenant', true));
alter table upload_key enable row level security;
alter table upload_key force row level security;
create policy tenant on upload_key using (tenant = current_setting('app.tenant', true))
    with check (tenant = current_setting('app.tenant', true));

grant select, insert, update, delete on collection, document, upload_key, chunk to gimle_app;
grant usage, select on sequence chunk_number to gimle_app;
