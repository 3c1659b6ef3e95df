"""The house rules about the database: each table guards its tenant, each named query is used and is valid."""

import re
from pathlib import Path
from typing import NamedTuple

import psycopg

from gimle.foundation.db import Database

PACKAGE = Path(__file__).parent.parent / "src" / "gimle"

# Tables without a tenant, each with the reason. They hold nothing that a tenant wrote, or are read before one is known.
GLOBAL_TABLES = {
    "migration": "which migrations this database has",
    "tenant": "the list of the tenants themselves",
    "api_key": "a key is looked up before its tenant is known",
    "job_share": "fair shares are counted across tenants; it holds counts, and no content",
    "cache_secret": "one secret of the installation, with which no tenant's data can be read",
    "job_executor": "the processes that work, which belong to no tenant",
    "model_fact": "times and counts of models for all nodes; a model is named by a digest",
    "probe_clock": "one moment for all nodes",
}


class Query(NamedTuple):
    """One named statement of an SQL file."""

    file: Path
    name: str
    text: str

    @property
    def place(self) -> str:
        return f"{self.file.relative_to(PACKAGE)}:{self.name}"


def _queries() -> list[Query]:
    found = []
    for file in sorted(PACKAGE.rglob("*.sql")):
        if file.parent.name != "migrations":
            parts = re.split(r"^-- name: (\w+)\n", file.read_text("utf-8"), flags=re.MULTILINE)[1:]
            found += [Query(file, name, text) for name, text in zip(parts[::2], parts[1::2], strict=True)]
    return found


QUERIES = _queries()


def _numbered(statement: str) -> str:
    """Turn psycopg's named placeholders into PostgreSQL's numbered ones."""
    names: dict[str, int] = {}

    def number(match: re.Match[str]) -> str:
        return f"${names.setdefault(match[1], len(names) + 1)}"

    return re.sub(r"%\((\w+)\)s", number, statement).replace("%%", "%")


def test_each_query_says_what_it_is_for() -> None:
    silent = [query.place for query in QUERIES if not re.match(r"-- \S", query.text.lstrip())]
    assert not silent, f"These need a line that describes them: {silent}"


def test_each_query_is_used_in_its_room() -> None:
    code = {query.file.parent: "" for query in QUERIES}
    for room in code:
        code[room] = "\n".join(file.read_text("utf-8") for file in room.rglob("*.py"))
    unused = [q.place for q in QUERIES if not re.search(rf"""["']{q.name}["']""", code[q.file.parent])]
    assert not unused, f"Nothing uses {unused}"


def test_each_query_that_is_asked_for_exists() -> None:
    names = {query.name for query in QUERIES}
    asked = {
        f"{file.relative_to(PACKAGE)}: {name}"
        for file in PACKAGE.rglob("*.py")
        for name in re.findall(r"""\b_?[A-Z]*SQL\[["'](\w+)["']\]""", file.read_text("utf-8"))
        if name not in names
    }
    assert not asked


def _statement(query: Query) -> str:
    statement = _numbered(re.sub(r"^\s*--.*$", "", query.text, flags=re.MULTILINE)).strip().rstrip(";")
    # COPY can't be prepared; a query of its target and columns can be.
    return re.sub(r"(?is)^copy\s+(\w+)\s*\((.*?)\).*$", r"select \2 from \1", statement)


async def test_each_query_is_valid_for_the_application_role(db: Database) -> None:
    """PREPARE against the migrated schema: tables, columns, types and functions exist, and the role may use them."""
    wrong = []
    for query in QUERIES:
        statement = _statement(query)
        try:
            async with db.shared() as conn:
                if re.search(r"\bjobs\.\w", statement):
                    # The job engine's own tables are out of the application's reach; its reaper logs in as the owner.
                    await conn.execute(b"reset role")
                for temporary in (_statement(q) for q in QUERIES if q.file == query.file and "create temp" in q.text):
                    await conn.execute(temporary.encode())
                if "create temp" not in statement:
                    await conn.execute(f"prepare checked as {statement}".encode())
                    await conn.execute(b"deallocate checked")
                await conn.execute(b"set role gimle_app")
        except psycopg.Error as error:
            wrong.append(f"{query.place}: {str(error).splitlines()[0]}")
    assert not wrong, "\n".join(wrong)


_TABLES = """
select c.relname as name, c.relrowsecurity and c.relforcerowsecurity as forced,
       exists (select from pg_attribute a
               where a.attrelid = c.oid and a.attname = 'tenant' and not a.attisdropped) as tenant,
       (select count(*) from pg_policy p where p.polrelid = c.oid
         and pg_get_expr(p.polqual, p.polrelid) like '%app.tenant%'
         and coalesce(pg_get_expr(p.polwithcheck, p.polrelid), pg_get_expr(p.polqual, p.polrelid)) like '%app.tenant%'
       ) as policies
from pg_class c join pg_namespace n on n.oid = c.relnamespace
where n.nspname = 'gimle' and c.relkind in ('r', 'p')
"""


async def test_each_table_guards_its_tenant(db: Database) -> None:
    async with db.shared() as conn:
        tables = await (await conn.execute(_TABLES)).fetchall()
    assert tables, "The template has no tables"
    open_tables = [
        t["name"]
        for t in tables
        if t["name"] not in GLOBAL_TABLES and not (t["tenant"] and t["forced"] and t["policies"])
    ]
    assert not open_tables, f"No tenant column, or no forced policy that compares it with app.tenant: {open_tables}"
    gone = GLOBAL_TABLES.keys() - {t["name"] for t in tables}
    assert not gone, f"These stand on the list of global tables and do not exist: {gone}"


async def test_the_application_role_can_not_bypass_policies(db: Database) -> None:
    async with db.shared() as conn:
        role = await (
            await conn.execute(
                "select rolname as name, rolbypassrls, rolsuper from pg_roles where rolname = current_user"
            )
        ).fetchone()
        owned = await (
            await conn.execute(
                "select relname from pg_class c join pg_namespace n on n.oid = c.relnamespace "
                "where n.nspname = 'gimle' and pg_get_userbyid(c.relowner) = current_user"
            )
        ).fetchall()
    assert role == {"name": "gimle_app", "rolbypassrls": False, "rolsuper": False}
    assert not owned, "An owner could switch the policies off"
