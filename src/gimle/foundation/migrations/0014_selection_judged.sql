-- What was said of the answers to a call, so that the last word replaces the one before; null while nobody has judged.
alter table decision add column judged jsonb;
