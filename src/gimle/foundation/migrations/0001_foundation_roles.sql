-- The role in which all of Gimle's own queries run: it owns nothing, and no policy can be by-passed with it.
do $$
begin
    if not exists (select from pg_roles where rolname = 'gimle_app') then
        create role gimle_app nologin nosuperuser nobypassrls nocreatedb nocreaterole;
    end if;
exception when duplicate_object or unique_violation then
    null; -- Another node or another database of this cluster was faster.
end $$;

grant gimle_app to current_user;
create extension if not exists vector with schema public;
grant usage on schema gimle, public to gimle_app;
