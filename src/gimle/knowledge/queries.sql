-- name: insert_collection
-- A new collection; nothing when the name is taken.
insert into collection (id, name) values (%(id)s, %(name)s)
on conflict (tenant, name) do nothing
returning id, name, created_at, space

-- name: find_collection
-- One collection by name or id, with what serves in it.
select c.id, c.name, c.created_at, c.space,
       (select count(*) from document d where d.collection = c.id and d.is_latest) as documents,
       (select coalesce(sum(d.chunks), 0) from document d where d.collection = c.id and d.is_latest) as chunks
from collection c where c.name = %(collection)s or c.id = %(collection)s
order by c.id = %(collection)s desc limit 1

-- name: list_collections
-- A page of collections by name.
select c.id, c.name, c.created_at, c.space,
       (select count(*) from document d where d.collection = c.id and d.is_latest) as documents,
       (select coalesce(sum(d.chunks), 0) from document d where d.collection = c.id and d.is_latest) as chunks
from collection c where c.name > coalesce(%(after)s, '') order by c.name limit %(limit)s

-- name: all_collections
-- The ids of all collections.
select id from collection order by id

-- name: delete_collection
-- Remove a collection; documents, chunks and index rows go with it.
delete from collection where id = %(id)s

-- name: lock
-- Let only one transaction at a time work on what the key names; held until its end.
select pg_advisory_xact_lock(hashtextextended(%(key)s, 0))

-- name: find_same
-- The newest version of a name whose content this is; a document of the given name before others.
select d.id, d.name, d.job, (d.status = 'failed' or j.status in ('failed', 'cancelled') and d.status = 'pending') as failed
from document d left join job j on j.id = d.job
where d.collection = %(collection)s and d.sha256 = %(sha256)s and not exists (
    select 1 from document n where n.collection = d.collection and n.name = d.name and n.version > d.version)
order by d.name = %(name)s desc, d.id limit 1

-- name: stored_bytes
-- How many bytes the documents of a tenant have, all versions counted.
select coalesce(sum(size), 0)::bigint from document;

-- name: insert_document
-- A new version of a name, not serving yet.
insert into document (id, collection, name, media_type, size, sha256, version)
select %(id)s, %(collection)s, %(name)s, %(media_type)s, %(size)s, %(sha256)s, coalesce(max(version), 0) + 1
from document where collection = %(collection)s and name = %(name)s

-- name: revive_document
-- A failed version begins anew.
update document set status = 'pending', phase = 'queued', error = null, text = null, layout = null, chunks = 0,
    media_type = %(media_type)s
where id = %(id)s

-- name: set_job
-- The job that works on a document.
update document set job = %(job)s where id = %(id)s

-- name: claim_upload
-- Remember for 24 h which document an idempotency key made.
insert into upload_key (key, document, request) values (%(key)s, %(id)s, %(request)s)
on conflict (tenant, key) do update set document = excluded.document, request = excluded.request, created_at = now()

-- name: find_upload
-- The document that an idempotency key made in the last 24 h.
select k.document, k.request, d.job from upload_key k join document d on d.id = k.document
where k.key = %(key)s and k.created_at > now() - interval '24 hours'

-- name: get_document
-- One document. What its job could not tell it any more, such as a time-out, the job's own row tells.
select d.id, d.collection, d.name, d.media_type, d.size, d.sha256, d.version, d.is_latest, d.created_at, d.phase,
       d.language, d.pages, d.chunks, d.job,
       case when d.status = 'pending' and j.status in ('failed', 'cancelled') then 'failed' else d.status end as status,
       coalesce(d.error, case when d.status = 'pending' and j.status = 'cancelled' then 'Its reading was cancelled.'
                              when d.status = 'pending' and j.status = 'failed' then j.error ->> 'message' end) as error
from document d left join job j on j.id = d.job
where d.id = %(id)s

-- name: list_documents
-- A page of the documents of a collection, newest first.
select d.id, d.collection, d.name, d.media_type, d.size, d.sha256, d.version, d.is_latest, d.created_at, d.phase,
       d.language, d.pages, d.chunks, d.job,
       case when d.status = 'pending' and j.status in ('failed', 'cancelled') then 'failed' else d.status end as status,
       coalesce(d.error, case when d.status = 'pending' and j.status = 'cancelled' then 'Its reading was cancelled.'
                              when d.status = 'pending' and j.status = 'failed' then j.error ->> 'message' end) as error
from document d left join job j on j.id = d.job
where d.collection = %(collection)s and (%(after)s::text is null or d.id < %(after)s)
order by d.id desc limit %(limit)s

-- name: get_text
-- The extracted text of a document.
select text from document where id = %(id)s

-- name: list_without_vectors
-- The documents that serve by their words only, because there was no embedder when they were read.
select d.id from document d
where d.is_latest and d.chunks > 0 and not exists (select from chunk_vector v where v.document = d.id) order by d.id

-- name: get_work
-- What a worker needs to know of a document.
select id, collection, name, media_type, sha256, status, text, layout, pages, language from document where id = %(id)s

-- name: set_phase
-- How far the work on a document is.
update document set phase = %(phase)s, status = 'pending', error = null
where id = %(id)s and status <> 'ready'

-- name: store_text
-- What the parser found.
update document set text = %(text)s, layout = %(layout)s, pages = %(pages)s, language = %(language)s where id = %(id)s

-- name: next_numbers
-- Numbers for new chunks, rising.
select nextval('chunk_number') as number from generate_series(1, %(count)s)

-- name: delete_chunks
-- Remove the chunks of a document; their index rows go with them.
delete from chunk where document = %(id)s

-- name: insert_chunks
-- All chunks of a document in one statement.
insert into chunk (id, number, collection, document, ordinal, text, start_char, end_char, page, heading, language)
select c.id, c.number, %(collection)s, %(document)s, c.ordinal, c.text, c.start_char, c.end_char, c.page, c.heading, c.language
from unnest(%(ids)s::text[], %(numbers)s::bigint[], %(ordinals)s::integer[], %(texts)s::text[], %(starts)s::integer[],
            %(ends)s::integer[], %(pages)s::integer[], %(headings)s::text[], %(languages)s::text[])
    as c (id, number, ordinal, text, start_char, end_char, page, heading, language)

-- name: count_chunks
-- How many chunks a document has, written on it; no row when its text is gone.
update document set chunks = %(chunks)s where id = %(id)s and text is not null

-- name: list_chunks
-- The chunks of a document in order.
select id, number, document, ordinal, text, start_char as start, end_char as "end", page, heading, language
from chunk where document = %(id)s order by ordinal

-- name: activate
-- Ready: the highest ready version of the name serves, and no other, from the same moment on.
with family as (
    select id, version from document
    where collection = %(collection)s and name = %(name)s and (status = 'ready' or id = %(id)s)
), serving as (select id from family order by version desc limit 1)
update document d set
    is_latest = d.id = s.id,
    status = 'ready', phase = 'ready', error = null,
    ready_at = case when d.id = %(id)s then now() else d.ready_at end
from serving s
where d.collection = %(collection)s and d.name = %(name)s and (d.id = %(id)s or d.id = s.id or d.is_latest)
returning d.id, d.is_latest

-- name: fail_document
-- The reason why a version will not serve; what served before goes on serving.
update document set status = 'failed', error = %(error)s where id = %(id)s and status = 'pending'

-- name: delete_document
-- Remove a version; with the one that serves go all versions of its name. Chunks and index rows go with them.
delete from document d using document asked
where asked.id = %(id)s and (d.id = asked.id
    or asked.is_latest and d.collection = asked.collection and d.name = asked.name)
returning d.sha256

-- name: is_referenced
-- Whether any document of the tenant still has this content.
select exists (select 1 from document where sha256 = %(sha256)s) as referenced

-- name: contents
-- The contents of a collection's documents.
select distinct sha256 from document where collection = %(collection)s

-- name: stored_numbers
-- Chunks × dimensions of all vectors; counts in the index of each space.
select coalesce(sum(counted.vectors * s.dimensions), 0)::bigint as numbers
from vector_space s, lateral (select count(*) as vectors from chunk_vector v where v.space = s.id) counted
