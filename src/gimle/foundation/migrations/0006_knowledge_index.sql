-- The search index over chunks: packed BM25 postings in segments, and vectors in their spaces.

-- A number that grows with every change of what a search in the collection may find. In-process caches compare it.
create table lexical_generation (
    collection text primary key,
    tenant     text not null default current_setting('app.tenant'),
    generation bigint not null default 1,
    foreign key (tenant, collection) references collection (tenant, id) on delete cascade
);

-- Some chunks of one language, numbered 0..n-1 in the order of `chunks`, packed int64 of chunk.number. `owners` says for
-- each which of `documents` it belongs to, `lengths` how many terms it has, both packed int32. A segment never changes,
-- it is only added, merged and deleted, save for `gone`: documents whose chunks here no longer count. A small segment
-- carries its postings in `packed`; a larger one has them a row a term in lexical_posting.
create table lexical_segment (
    id         bigint generated always as identity primary key,
    tenant     text not null default current_setting('app.tenant'),
    collection text not null,
    language   text not null,
    document   text,
    documents  text[] not null,
    gone       text[] not null default '{}',
    size       integer not null check (size > 0),
    chunks     bytea not null,
    owners     bytea not null,
    lengths    bytea not null,
    packed     bytea,
    foreign key (tenant, collection) references collection (tenant, id) on delete cascade,
    foreign key (tenant, document) references document (tenant, id) on delete cascade
);
create index lexical_segment_collection on lexical_segment (collection);
create index lexical_segment_document on lexical_segment (document) where document is not null;

create table lexical_posting (
    segment  bigint not null references lexical_segment on delete cascade,
    term     text not null,
    tenant   text not null default current_setting('app.tenant'),
    postings bytea not null,
    primary key (segment, term)
);
-- Postings are compact already: trying to compress them again costs time at each reading.
alter table lexical_posting alter column postings set storage external;
alter table lexical_segment alter column packed set storage external;

-- What makes two vectors comparable. Vectors name their space, and the foreign key holds them to its dimensions.
create table vector_space (
    id            text primary key,
    tenant        text not null default current_setting('app.tenant'),
    collection    text not null,
    model         text not null,
    version       text not null,
    dimensions    integer not null check (dimensions between 1 and 16000),
    prefix        text not null default '',
    normalised    boolean not null default true,
    chunk_profile text not null default '',
    languages     text[] not null default '{}',
    state         text not null default 'active' check (state in ('building', 'active', 'retired')),
    indexed       boolean not null default false,
    created_at    timestamptz not null default now(),
    unique (collection, model, version, dimensions, prefix, normalised, chunk_profile),
    unique (tenant, id, dimensions),
    foreign key (tenant, collection) references collection (tenant, id) on delete cascade
);
create unique index vector_space_active on vector_space (collection) where state = 'active';
alter table collection add foreign key (space) references vector_space on delete set null;
create index collection_space on collection (space) where space is not null;

alter table chunk add unique (tenant, number);
create table chunk_vector (
    chunk       bigint not null,
    space       text not null,
    tenant      text not null default current_setting('app.tenant'),
    document    text not null,
    text_sha256 bytea not null,
    embedding   halfvec not null,
    dimensions  integer not null generated always as (vector_dims(embedding)) stored,
    primary key (chunk, space),
    foreign key (tenant, chunk) references chunk (tenant, number) on delete cascade,
    foreign key (tenant, space, dimensions) references vector_space (tenant, id, dimensions) on delete cascade
);
-- Rows stay in one piece up to 8 kB: an exact scan that has to follow TOAST pointers is several times slower.
alter table chunk_vector set (toast_tuple_target = 8160);
-- Finds the vectors of a space, those of an unchanged text and, as a hash is random, a fair sample.
create index chunk_vector_space on chunk_vector (space, text_sha256);
create index chunk_vector_document on chunk_vector (document);

-- The documents that a search may find, read when the generation has moved.
create index document_serving on document (tenant, collection, id) where is_latest;

do $$
declare
    name text;
begin
    foreach name in array array['lexical_generation', 'lexical_segment', 'lexical_posting', 'vector_space', 'chunk_vector'] loop
        execute format('alter table %I enable row level security', name);
        execute format('alter table %I force row level security', name);
        execute format(
            'create policy tenant on %I using (tenant = (select current_setting(''app.tenant'', true)))'
            ' with check (tenant = (select current_setting(''app.tenant'', true)))', name);
        execute format('grant select, insert, update, delete on %I to gimle_app', name);
    end loop;
end $$;

-- A document that vanishes, or starts or ceases to serve, moves the generation in the same transaction, so no caller can
-- forget it. The row is made by the first indexing; without it there is nothing to find.
create function lexical_document_updated() returns trigger language plpgsql as $$
begin
    update lexical_generation set generation = generation + 1
    where collection in (
        select distinct after.collection from after join before using (id) where after.is_latest <> before.is_latest);
    return null;
end $$;
create trigger lexical_document_updated after update on document
    referencing old table as before new table as after
    for each statement execute function lexical_document_updated();

create function lexical_document_deleted() returns trigger language plpgsql as $$
begin
    update lexical_generation set generation = generation + 1
    where collection in (select distinct collection from before where is_latest);
    return null;
end $$;
create trigger lexical_document_deleted after delete on document
    referencing old table as before
    for each statement execute function lexical_document_deleted();

-- Builds the nearest-neighbour index of one space. The app role owns no table and can't do this itself; the function does
-- it for a space of the calling tenant and for nothing else. In a transaction, so a crash leaves no half of an index.
create function index_vectors(wanted text) returns boolean
language plpgsql security definer set search_path = gimle, public, pg_temp as $$
declare
    width integer;
begin
    select dimensions into width from vector_space
    where id = wanted and tenant = current_setting('app.tenant', true) and dimensions <= 4000;
    if width is null then
        return false;
    end if;
    execute format(
        'create index if not exists %I on chunk_vector using hnsw ((embedding::halfvec(%s)) halfvec_ip_ops)'
        ' with (m = 16, ef_construction = 64) where space = %L', 'hnsw_' || wanted, width, wanted);
    update vector_space set indexed = true where id = wanted;
    return true;
end $$;
revoke execute on function index_vectors(text) from public;
grant execute on function index_vectors(text) to gimle_app;
