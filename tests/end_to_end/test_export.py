"""Exported tables read where people use them: PostgreSQL, DuckDB and pandas see the same values."""

import gzip
import hashlib
import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import duckdb
import pandas as pd
import pyarrow.parquet as pq
import pytest
import zstandard

from jobs.copying.table_copy import CopyOptions
from jobs.exporting.columns import Mask
from jobs.exporting.files import Compression
from jobs.exporting.plan import ExportScope, Format
from storage.age import NoIdentity
from storage.backends.memory import MemoryBackend
from storage.repository import Repository
from tests import hostile
from tests.compare import EXACT_OUTPUT
from tests.conftest import CreateDatabase
from tests.exporting import exported, psql
from tests.faults.places import files
from tests.keys import new_key, recipients_of
from tests.round_trip import SMALL_PIECES, back_up
from tests.servers import Database, Server, quoted

TYPED = """
    CREATE EXTENSION vector;
    CREATE TABLE typed (
        id bigint, small smallint, whole int, flag boolean, "wide" double precision, narrow real, price numeric(10, 2),
        free numeric, t text, v varchar(20), day date, clock time, stamp timestamp, at timestamptz, u uuid, b bytea,
        j json, jb jsonb, e vector(3), ints int[], words text[], o oid
    );
    INSERT INTO typed VALUES
        (9007199254740993, -32768, 7, true, 0.1, 0.5, 12.30, 1.5, E'tab\\t "q" \\\\ \\n', '', '2026-01-31',
         '14:05:00.5', '2026-01-31 14:05:00', '2026-01-31 14:05:00.123456+01', 'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11',
         '\\x00ff', '{"a": [1, "é"]}', '{"b": null}', '[1,2.5,-3]', '{1,NULL,3}', '{a,"b c",NULL}', 4294967295),
        (2, NULL, NULL, false, -1e22, NULL, -0.01, 2, '', NULL, NULL, NULL, NULL, '1960-01-01 00:00+00', NULL, '\\x',
         'null', '[]', NULL, '{}', '{}', 0),
        (4, 1, 2, true, 1, 2, 3, 4, 'NULL', 'NaN', '0001-01-01', '00:00', '9999-12-31 23:59:59.999999', 'epoch', NULL,
         NULL, NULL, NULL, NULL, NULL, NULL, NULL);
    INSERT INTO typed (id) VALUES (3);
"""


async def typed(create_database: CreateDatabase) -> Database:
    return await create_database(key="typed_to_export", build=TYPED)


async def test_copy_reads_the_csv_of_everything_back(
    create_database: CreateDatabase, server: Server, tmp_path: Path
) -> None:
    source = await create_database(server, key="hostile", build=hostile.hard_schema(server.major))
    taken = await back_up(source, copying=SMALL_PIECES)
    result = await exported(taken, tmp_path, ExportScope(("csv",)))
    commands = []
    for number, (file, table) in enumerate(zip(result.files, taken.manifest.tables, strict=True)):
        columns = ", ".join(quoted(column.name) for column in table.columns if not column.generated)
        name = f"{quoted(table.schema_name)}.{quoted(table.name)}"
        commands += [
            f"CREATE TABLE exported.t{number} AS SELECT {columns} FROM ONLY {name} WITH NO DATA;",
            f"\\copy exported.t{number} FROM '{tmp_path / file.file}' (FORMAT csv, HEADER)",
            f"CREATE VIEW exported.v{number} AS SELECT {columns} FROM ONLY {name};",
        ]
    before = f"\\set ON_ERROR_STOP on\n{EXACT_OUTPUT}SET client_min_messages = warning;\nCREATE SCHEMA exported;\n"
    assert await psql(source, stdin=before + "\n".join(commands)) == (0, "")
    async with source.connect() as connection:
        await connection.execute(EXACT_OUTPUT)
        for number, table in enumerate(taken.manifest.tables):
            found, expected = [await lines(connection, f"exported.{kind}{number}") for kind in "tv"]
            assert found == expected, table.name
            assert found.total() == table.rows


@pytest.mark.parametrize("compress", ["gzip", "zstd"])
async def test_compressed_files_are_what_the_plain_ones_are(
    create_database: CreateDatabase, tmp_path: Path, compress: Compression
) -> None:
    taken = await back_up(await typed(create_database))
    formats: tuple[Format, ...] = ("csv", "json", "sql")
    alone = await exported(taken, tmp_path / "plain", ExportScope(formats))
    result = await exported(taken, tmp_path / "compressed", ExportScope(formats, compress=compress))
    for one, file in zip(alone.files, result.files, strict=True):
        stored = (tmp_path / "compressed" / file.file).read_bytes()
        assert (file.bytes, file.sha256) == (len(stored), hashlib.sha256(stored).hexdigest())
        assert plain(stored, compress) == (tmp_path / "plain" / one.file).read_bytes()


def plain(stored: bytes, compress: Compression) -> bytes:
    if compress == "gzip":
        return gzip.decompress(stored)
    return zstandard.ZstdDecompressor().decompressobj().decompress(stored)


async def lines(connection: Any, relation: str) -> Counter[bytes]:
    text = bytearray()

    async def take(chunk: bytes) -> None:
        text.extend(chunk)

    await connection.copy_from_query(f"SELECT * FROM {relation}", output=take)
    return Counter(bytes(text).split(b"\n")[:-1])


def by_duckdb(query: str) -> list[tuple[Any, ...]]:
    found = duckdb.sql(query)
    assert found is not None
    return [tuple(row) for row in found.fetchall()]


async def test_duckdb_and_pandas_read_values_out_of_parquet(create_database: CreateDatabase, tmp_path: Path) -> None:
    source = await typed(create_database)
    result = await exported(await back_up(source), tmp_path, ExportScope(("parquet",)))
    assert result.warnings == ()
    path = tmp_path / "public" / "typed.parquet"
    expected = await source.fetch(
        "SELECT id, small, whole, flag, wide, narrow, price, free::text, t, v, day, clock, stamp, at, u, b, j::text,"
        " jb::text, e::real[], ints, words::text, o FROM typed ORDER BY id"
    )
    assert by_duckdb(f"SET timezone = 'UTC'; SELECT * FROM '{path}' ORDER BY id") == expected
    frame = pd.read_parquet(path).sort_values("id")
    assert [*frame["t"].fillna("NULL!")] == [row[8] if row[8] is not None else "NULL!" for row in expected]
    assert [*frame["price"]] == [row[6] for row in expected]
    assert frame["at"].iloc[3] == expected[3][13]
    assert str(frame["at"].dtype) == "datetime64[us, UTC]"


async def test_duckdb_and_pandas_read_values_out_of_csv(create_database: CreateDatabase, tmp_path: Path) -> None:
    source = await typed(create_database)
    await exported(await back_up(source), tmp_path, ExportScope(("csv",)))
    path = tmp_path / "public" / "typed.csv"
    async with source.connect() as connection:
        await connection.execute(EXACT_OUTPUT)
        names = [name for (name,) in await source.fetch(
            "SELECT attname FROM pg_attribute WHERE attrelid = 'typed'::regclass AND attnum > 0 ORDER BY attnum"
        )]  # fmt: skip
        as_text = ", ".join(f"{quoted(name)}::text" for name in names if name != "flag")
        expected = [tuple(row) for row in await connection.fetch(f"SELECT {as_text} FROM public.typed")]
    kept = ", ".join(quoted(name) for name in names if name != "flag")
    query = f"SELECT {kept} FROM read_csv('{path}', header = true, all_varchar = true, allow_quoted_nulls = false)"
    assert by_duckdb(query) == expected
    frame = pd.read_csv(path, dtype=str, keep_default_na=False)
    assert [*frame.columns] == names
    del frame["flag"]
    assert [tuple(row) for row in frame.itertuples(index=False)] == [tuple(v or "" for v in row) for row in expected]


@pytest.mark.parametrize("by_line", [False, True])
async def test_duckdb_and_pandas_read_values_out_of_json(
    create_database: CreateDatabase, tmp_path: Path, by_line: bool
) -> None:
    source = await typed(create_database)
    await exported(await back_up(source), tmp_path, ExportScope(("json",), lines=by_line))
    path = tmp_path / "public" / ("typed.jsonl" if by_line else "typed.json")
    # An integer that not every reader holds exactly is a string; else it is what PostgreSQL's own JSON is.
    expected = [json.loads(one) for (one,) in await source.fetch(
        "SELECT (to_jsonb(typed) || jsonb_build_object('id', CASE id WHEN 9007199254740993 THEN to_jsonb(id::text)"
        " ELSE to_jsonb(id) END, 'e', e::text::jsonb, 'o', o::bigint))::text FROM typed"
    )]  # fmt: skip
    text = path.read_text()
    found = [json.loads(line) for line in text.splitlines()] if by_line else json.loads(text)
    assert found == expected
    form = "newline_delimited" if by_line else "array"
    query = f"SELECT t, price, flag, u::text, e::float[] FROM read_json('{path}', format = '{form}')"
    assert by_duckdb(query) == await source.fetch("SELECT t, price::float8, flag, u::text, e::real[] FROM typed")
    frame = pd.read_json(path, lines=by_line, dtype=False)
    assert [*frame["t"].fillna("NULL!")] == [one["t"] if one["t"] is not None else "NULL!" for one in expected]


async def test_what_parquet_cannot_hold_is_exported_as_text_and_said(
    create_database: CreateDatabase, tmp_path: Path
) -> None:
    source = await create_database()
    await source.execute(
        "CREATE TABLE t (id int, at timestamptz, n numeric(5, 1), d date, a int[]);"
        "INSERT INTO t SELECT n, now(), n, now(), '{1}' FROM generate_series(1, 999) n;"
        "INSERT INTO t VALUES (1000, 'infinity', 'NaN', '4000-01-01 BC', '{{1}}');"
        "CREATE TABLE none (); INSERT INTO none DEFAULT VALUES;"
    )
    result = await exported(await back_up(source), tmp_path, ExportScope(("parquet",)))
    table = pq.read_table(tmp_path / "public" / "t.parquet")
    assert [str(kind) for kind in table.schema.types] == ["int32", *["string"] * 4]
    assert table.to_pylist()[999] == {"id": 1000, "at": "infinity", "n": "NaN", "d": "4000-01-01 BC", "a": "{{1}}"}
    assert table.num_rows == 1000
    (file,) = (one for one in result.files if one.table == "t")
    assert file.as_text == ("at", "n", "d", "a")
    assert result.warnings == (
        "public.none has no columns: Parquet cannot hold its rows",
        *(
            f"public.t: column {name} holds values that its type in Parquet cannot, and was exported as text"
            for name in file.as_text
        ),
    )


@pytest.mark.parametrize("format_", ["json", "parquet"])
async def test_every_value_of_the_hard_schema_is_there(
    create_database: CreateDatabase, server: Server, tmp_path: Path, format_: Format
) -> None:
    source = await create_database(server, key="hostile", build=hostile.hard_schema(server.major))
    taken = await back_up(source)
    result = await exported(taken, tmp_path, ExportScope((format_,)))
    for file, table in zip(result.files, taken.manifest.tables, strict=True):
        names = [column.name for column in table.columns if not column.generated]
        rows = read(tmp_path / file.file, format_)
        if names or format_ == "json":
            assert len(rows) == table.rows
        assert all([*row] == names for row in rows)
        if table.schema_name == hostile.NAMES_SCHEMA:
            assert [row[table.name] for row in rows] == [table.name, None]
    assert {(one.schema, one.table) for one in result.files} == {(t.schema_name, t.name) for t in taken.manifest.tables}


def read(path: Path, format_: Format) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(path.read_text()) if format_ == "json" else pq.read_table(path).to_pylist()
    return found


async def test_masks_and_omissions_hold_for_every_format(create_database: CreateDatabase, tmp_path: Path) -> None:
    source = await create_database()
    await source.execute(
        """CREATE TABLE "A.b" ("e.mail" text, id int, secret text, age int);
        CREATE TABLE parts (mail varchar(50), id int) PARTITION BY LIST (id);
        CREATE TABLE one PARTITION OF parts FOR VALUES IN (1);
        INSERT INTO "A.b" VALUES ('x@example.org', 1, 's3cret', 33), (NULL, 2, 's3cret', 44);
        INSERT INTO parts VALUES ('x@example.org', 1)"""
    )
    masks = (('"A.b"."e.mail"', Mask("hash")), ("parts.mail", Mask("hash")), ('public."A.b".age', Mask("null")))
    scope = ExportScope(("json", "csv", "parquet"), omit=('"A.b".secret',), masks=masks)
    result = await exported(await back_up(source), tmp_path, scope)
    forms: tuple[Format, ...] = ("json", "parquet")
    for form in forms:
        one, two = read(tmp_path / "public" / f"A=2Eb.{form}", form), read(tmp_path / "public" / f"one.{form}", form)
        assert [*one[0]] == ["e.mail", "id", "age"]
        assert [row["age"] for row in one] == [None, None]
        assert one[1]["e.mail"] is None
        assert one[0]["e.mail"] == two[0]["mail"]
        assert len(one[0]["e.mail"]) == 64
    assert not [name for name in files(tmp_path) if b"s3cret" in (tmp_path / name).read_bytes()]
    assert "public.parts is exported by its partitions: public.one" in result.warnings


async def test_an_encrypted_backup_is_exported_by_who_has_an_identity_alone(
    create_database: CreateDatabase, tmp_path: Path
) -> None:
    key = new_key()
    place = Repository("memory", MemoryBackend(), key.keyring)
    sealed = CopyOptions(recipients=recipients_of(key))
    taken = await back_up(await typed(create_database), copying=sealed, repository=place)
    scope = ExportScope(("csv", "parquet", "sql"))
    stranger = replace(taken, repository=Repository("memory", place.backend, new_key().keyring))
    with pytest.raises(NoIdentity):
        await exported(stranger, tmp_path, scope)
    assert files(tmp_path) == set()
    result = await exported(taken, tmp_path, scope)
    assert [file.rows for file in result.files] == [4, 4, 4]
