-- name: search_head
-- A collection by name or id, the generation of its index, and its active vector space.
select c.id, coalesce(g.generation, 0) as generation, s.id as space
from collection c
left join lexical_generation g on g.collection = c.id
left join vector_space s on s.collection = c.id and s.state = 'active'
where c.name = %(collection)s or c.id = %(collection)s
order by c.id = %(collection)s desc
limit 1

-- name: read_passages
-- Chunks by number with what a reader needs to see, as far as their documents serve.
select c.number, c.id as chunk, c.document, d.name as document_name, c.text, c.start_char as start, c.end_char as "end",
       c.page, c.heading, c.language
from chunk c join document d on d.id = c.document
where c.number = any(%(numbers)s::bigint[]) and c.collection = %(collection)s and d.is_latest

-- name: move_generation
-- Tells every process that a search in the collection may now find something else.
insert into lexical_generation (collection) values (%(collection)s)
on conflict (collection) do update set generation = lexical_generation.generation + 1

-- name: read_segments
-- The segments of a collection; of those already in the caller's cache only what may have changed.
select g.generation, s.id, s.language, s.gone,
       case when k.known then null else s.documents end as documents,
       case when k.known then null else s.chunks end as chunks,
       case when k.known then null else s.owners end as owners,
       case when k.known then null else s.lengths end as lengths,
       case when k.known then null else s.packed end as packed
from lexical_generation g
left join lexical_segment s on s.collection = g.collection
left join lateral (select s.id = any(%(known)s) as known) k on true
where g.collection = %(collection)s
order by s.id

-- name: read_serving
-- The documents that a search in a collection may find, and the generation to which that belongs.
select g.generation, array(select d.id from document d where d.collection = g.collection and d.is_latest) as serving
from lexical_generation g where g.collection = %(collection)s

-- name: read_postings
-- The postings of some terms in some segments; a segment that has none of them gives one row without a term.
select s.id as segment, p.term, p.postings
from lexical_segment s
left join lexical_posting p
    on p.segment = s.id and p.segment = any(%(segments)s::bigint[]) and p.term = any(%(terms)s::text[])
where s.id = any(%(segments)s)

-- name: insert_segment
-- Adds a segment; `packed` holds all postings of a small one.
insert into lexical_segment (collection, language, document, documents, size, chunks, owners, lengths, packed)
values (%(collection)s, %(language)s, %(document)s, %(documents)s, %(size)s, %(chunks)s, %(owners)s, %(lengths)s, %(packed)s)
returning id

-- name: insert_postings
-- Adds the postings of a segment, a row a term.
insert into lexical_posting (segment, term, postings)
select %(segment)s, t.term, t.postings from unnest(%(terms)s::text[], %(postings)s::bytea[]) t(term, postings)

-- name: delete_document_segments
-- Deletes the segments that hold one document only.
delete from lexical_segment where document = %(document)s

-- name: forget_in_segments
-- Marks a document as gone in the segments that it shares with others.
update lexical_segment set gone = gone || %(document)s::text
where collection = (select collection from document where id = %(document)s)
  and document is null and %(document)s = any(documents) and not %(document)s = any(gone)

-- name: segment_sizes
-- The size of each segment of a collection, to decide what to merge.
select id, language, size, cardinality(gone) as gone, cardinality(documents) as documents
from lexical_segment where collection = %(collection)s order by id

-- name: segments_with_gone
-- The segments of a collection that still hold postings of documents which no longer count.
select s.id, s.language, s.size, cardinality(s.gone) as gone, cardinality(s.documents) as documents
from lexical_segment s
where s.collection = %(collection)s
  and (s.gone <> '{}' or exists (
      select from unnest(s.documents) o(id) where not exists (select from document d where d.id = o.id)))
order by s.id

-- name: lock_merge
-- True when no other transaction merges this collection now; held until the end of this one.
select pg_try_advisory_xact_lock(hashtextextended('gimle.merge:' || %(collection)s, 0)) as free

-- name: read_sources
-- The segments to merge, and which of their documents still exist.
select s.id, s.language, s.gone, s.documents, s.chunks, s.owners, s.lengths, s.packed,
       array(select d.id from document d where d.id = any(s.documents)) as existing
from lexical_segment s where s.id = any(%(segments)s) order by s.id

-- name: read_source_postings
-- All postings of the segments to merge which are kept a row a term.
select segment, term, postings from lexical_posting where segment = any(%(segments)s)

-- name: delete_segments
-- Deletes segments and, by cascade, their postings.
delete from lexical_segment where id = any(%(segments)s)

-- name: active_space
-- The vector space of which a collection is searched.
select id, collection, model, version, dimensions, prefix, normalised, chunk_profile, languages, indexed
from vector_space where collection = %(collection)s and state = 'active'

-- name: insert_space
-- Opens the first space of a collection; does nothing when another process was faster.
insert into vector_space
    (id, collection, model, version, dimensions, prefix, normalised, chunk_profile, languages)
values
    (%(id)s, %(collection)s, %(model)s, %(version)s, %(dimensions)s, %(prefix)s, %(normalised)s, %(chunk_profile)s,
     %(languages)s)
on conflict do nothing

-- name: name_space
-- Shows the active space on its collection.
update collection set space = (select id from vector_space where collection = %(collection)s and state = 'active')
where id = %(collection)s

-- name: chunks_with_vector
-- Which chunks of a document have their vector already.
select chunk from chunk_vector where document = %(document)s and space = %(space)s

-- name: reuse_vectors
-- Gives chunks whose text has a vector in this space already a copy of it.
insert into chunk_vector (chunk, space, document, text_sha256, embedding)
select distinct on (n.chunk) n.chunk, %(space)s, %(document)s, n.sha256, v.embedding
from unnest(%(chunks)s::bigint[], %(hashes)s::bytea[]) n(chunk, sha256)
join chunk_vector v on v.space = %(space)s and v.text_sha256 = n.sha256
returning chunk

-- name: stage_vectors
-- A table of this connection to copy vectors into: COPY is refused where there is row-level security, as it should be.
create temporary table if not exists staged_vector
    (chunk bigint, space text, document text, text_sha256 bytea, embedding halfvec) on commit delete rows

-- name: take_staged_vectors
-- Moves the copied vectors to where they belong, past every check and policy.
with taken as (delete from staged_vector returning chunk, space, document, text_sha256, embedding)
insert into chunk_vector (chunk, space, document, text_sha256, embedding)
select chunk, space, document, text_sha256, embedding from taken

-- name: delete_vectors
-- Deletes the vectors of a document.
delete from chunk_vector where document = %(document)s

-- name: nearest_exact
-- Compares the query with every vector of the space. "is true" keeps the planner from making a join of the test of what
-- serves: before the first ANALYZE it takes one that is thirty times slower.
select v.chunk, -(v.embedding <#> %(query)s::halfvec) as score
from chunk_vector v
where v.space = %(space)s
  and (v.document in (select d.id from document d where d.collection = %(collection)s and d.is_latest)) is true
order by 2 desc, 1
limit %(depth)s

-- name: nearest_indexed
-- Walks the index of the space from the query outwards. The width 1 stands for the space's own: the store puts it in.
select v.chunk, -(v.embedding::halfvec(1) <#> %(query)s::halfvec(1)) as score
from chunk_vector v
where v.space = %(space)s and exists (select from document d where d.id = v.document and d.is_latest)
order by v.embedding::halfvec(1) <#> %(query)s::halfvec(1)
limit %(depth)s

-- name: score_chunks
-- The query's cosine with some chunks.
select v.chunk, -(v.embedding <#> %(query)s::halfvec) as score
from chunk_vector v where v.space = %(space)s and v.chunk = any(%(chunks)s::bigint[])

-- name: sample_space
-- The query's cosine with a fair sample of the space: hashes of texts know nothing of what the texts say.
select array_agg(score) as background from (
    select -(v.embedding <#> %(query)s::halfvec) as score
    from chunk_vector v where v.space = %(space)s order by v.text_sha256 limit %(sample)s
) sampled

-- name: scan_index
-- Sets how the index is walked in this transaction: on and on until enough rows pass the filters.
select set_config('hnsw.iterative_scan', 'relaxed_order', true), set_config('hnsw.ef_search', %(width)s, true),
       set_config('enable_seqscan', 'off', true), set_config('enable_sort', 'off', true)

-- name: more_than
-- Whether a space has more vectors than that, without counting further.
select count(*) > %(limit)s as more from (select from chunk_vector where space = %(space)s limit %(limit)s + 1) counted

-- name: lock_build
-- True when no other transaction builds the index of this space now; held until the end of this one.
select pg_try_advisory_xact_lock(hashtextextended('gimle.build:' || %(space)s, 0)) as free

-- name: build_index
-- Builds the nearest-neighbour index of a space.
select index_vectors(%(space)s) as built
