"""Are two databases the same? Object by object, as pg_dump shows them, and row by row, as COPY writes them.

Independent of what is tested: it shares no code with it, and has tests of its own that plant differences.
"""

import asyncio
import difflib
import hashlib
import re
import subprocess
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable
from os import environ
from typing import NamedTuple

import asyncpg

from tests.servers import Database, quoted

EXACT_OUTPUT = """
    SET extra_float_digits = 3; SET DateStyle = 'ISO, YMD'; SET IntervalStyle = 'postgres';
    SET bytea_output = 'hex'; SET TimeZone = 'UTC'; SET lc_monetary = 'C'; SET search_path = '';
    SET row_security = off; SET statement_timeout = 0;
"""
RELATIONS = """
    SELECT n.nspname, c.relname, c.relkind::text, c.relkind = 'm' AND NOT c.relispopulated
    FROM pg_catalog.pg_class AS c JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
    WHERE c.relkind IN ('r', 'm', 'S') AND n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'
      AND n.nspname <> ALL ($1)
    ORDER BY 1, 2
"""
HEADING = re.compile(
    r"^--\n-- Name: (?P<name>.*); Type: (?P<kind>.*); Schema: (?P<schema>.*); Owner: .*\n--\n\n", re.MULTILINE
)
SHOWN_ROWS = 3
SHOWN_CHARACTERS = 300

Objects = dict[str, list[str]]
"""Definitions by kind, schema and name; more than one where names that differ are shown alike."""


class Content(NamedTuple):
    """What is in a database: by table how often which row occurs, and by sequence where it stands."""

    rows: dict[str, Counter[bytes]]
    sequences: dict[str, str]


async def differences(expected: Database, found: Database, *, ignore_schemas: Collection[str] = ()) -> list[str]:
    """Everything in which `found` is not what was `expected`, a readable text each; empty if they are the same."""
    newest = max((expected.server, found.server), key=lambda server: server.major)
    program = str(newest.binaries / "pg_dump")
    async with asyncio.TaskGroup() as group:
        dumps = [group.create_task(objects(database, program, ignore_schemas)) for database in (expected, found)]
        contents = [group.create_task(content(database, ignore_schemas)) for database in (expected, found)]
    rows, sequences = zip(*(task.result() for task in contents), strict=True)
    return [
        *_different_objects(*(task.result() for task in dumps)),
        *_different_rows(*rows),
        *_different_sequences(*sequences),
    ]


async def objects(database: Database, program: str, ignore_schemas: Collection[str] = ()) -> Objects:
    """Every object's definition, as that pg_dump writes it."""
    embedded = database.server.embedded
    connection = {
        "PGHOST": "127.0.0.1",
        "PGPORT": str(embedded.port),
        "PGUSER": embedded.user,
        "PGPASSWORD": embedded.password.get_secret_value(),
        "PGDATABASE": database.name,
        "PGCLIENTENCODING": "UTF8",
    }
    answer = await asyncio.to_thread(
        subprocess.run,
        [program, "--schema-only", *(f"--exclude-schema={quoted(schema)}" for schema in ignore_schemas)],
        env={"PATH": environ["PATH"], **connection},
        capture_output=True,
        check=False,
    )
    if answer.returncode != 0:
        raise RuntimeError(f"pg_dump of {database.name} failed: {answer.stderr.decode()}")
    return _split(answer.stdout.decode())


def _split(dump: str) -> Objects:
    """Cut a plain dump at its headings."""
    found: Objects = defaultdict(list)
    headings = list(HEADING.finditer(dump))
    ends = [*(heading.start() for heading in headings[1:]), len(dump)]
    for heading, end in zip(headings, ends[: len(headings)], strict=True):
        lines = [line for line in dump[heading.end() : end].splitlines() if not _is_passing(line)]
        # Rights are kept in the order they were given, which means nothing.
        text = "\n".join(sorted(lines) if heading["kind"].endswith("ACL") else lines).strip()
        found[f"{heading['kind']} {heading['schema']}.{heading['name']}"].append(text)
    return {key: sorted(texts) for key, texts in found.items()}


def _is_passing(line: str) -> bool:
    """Whether a line is about the dump, or how it is read back, and not about an object."""
    return line.startswith(("\\restrict", "\\unrestrict", "SET default_t", "-- PostgreSQL database dump complete"))


async def content(database: Database, ignore_schemas: Collection[str] = ()) -> Content:
    """Every row of every table and materialized view, and every sequence, of one moment."""
    rows: dict[str, Counter[bytes]] = {}
    sequences: dict[str, str] = {}
    async with database.connect() as connection:
        await connection.execute(EXACT_OUTPUT)
        async with connection.transaction(isolation="repeatable_read", readonly=True):
            for schema, name, kind, unpopulated in await connection.fetch(RELATIONS, list(ignore_schemas)):
                relation = f"{quoted(schema)}.{quoted(name)}"
                if kind == "S":
                    state = await connection.fetchrow(f"SELECT last_value, is_called FROM {relation}")
                    sequences[relation] = f"{state[0]}, {'called' if state[1] else 'not called'}"
                elif unpopulated:
                    rows[relation] = Counter([b"(not populated)"])
                else:
                    rows[relation] = await _rows(connection, relation)
    return Content(rows, sequences)


async def _rows(connection: asyncpg.Connection, relation: str) -> Counter[bytes]:
    counts: Counter[bytes] = Counter()
    rest = b""

    async def take(chunk: bytes) -> None:
        nonlocal rest
        *lines, rest = (rest + chunk).split(b"\n")
        counts.update(_short(line) for line in lines)

    await connection.copy_from_query(f"SELECT * FROM ONLY {relation}", output=take)
    return counts


def _short(row: bytes) -> bytes:
    """A row as it is, or where it is long its beginning and its hash."""
    if len(row) <= SHOWN_CHARACTERS:
        return row
    return row[:SHOWN_CHARACTERS] + b"... sha256:" + hashlib.sha256(row).hexdigest().encode()


def _different_objects(expected: Objects, found: Objects) -> Iterable[str]:
    for key in sorted(expected.keys() | found.keys()):
        if key not in found:
            yield f"{key}: missing"
        elif key not in expected:
            yield f"{key}: not expected:\n{found[key][0]}"
        elif expected[key] != found[key]:
            before, after = ("\n".join(texts).splitlines() for texts in (expected[key], found[key]))
            yield f"{key}: differs:\n" + "\n".join(list(difflib.unified_diff(before, after, n=0, lineterm=""))[2:])


def _different_rows(expected: dict[str, Counter[bytes]], found: dict[str, Counter[bytes]]) -> Iterable[str]:
    for table in sorted(expected.keys() & found.keys()):
        for what, rows in (
            ("missing", expected[table] - found[table]),
            ("not expected", found[table] - expected[table]),
        ):
            if rows:
                shown = "\n".join(row.decode(errors="replace") for row in list(rows)[:SHOWN_ROWS])
                yield f"rows of {table}: {rows.total()} {what}:\n{shown}"


def _different_sequences(expected: dict[str, str], found: dict[str, str]) -> Iterable[str]:
    for name in sorted(expected.keys() & found.keys()):
        if expected[name] != found[name]:
            yield f"sequence {name}: expected {expected[name]}; found {found[name]}"
