-- How long answers for somebody are kept, in seconds; null: as the settings say.
alter table allowance add column cache_seconds bigint check (cache_seconds >= 0);

-- Global: the secret with which the keys of answers in a shared Redis are made; all nodes of an installation use it.
create table cache_secret (
    one    boolean primary key default true check (one),
    secret bytea not null
);
grant select, insert on cache_secret to gimle_app;
