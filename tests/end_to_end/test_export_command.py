"""`rowvault export` as people give it: a backup or any moment, tables, masks, what is shown and remembered."""

import csv
import hashlib
import hmac
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from tests.exporting import KEY
from tests.faults.commands import DONE, NOT_FOUND, REFUSED, USAGE, refuse, settings_of, succeed
from tests.faults.places import files
from tests.programs import rowvault
from tests.servers import DEFAULT_MAJOR, Servers

SHOP = """
    CREATE TABLE customers (id int PRIMARY KEY, email text);
    INSERT INTO customers SELECT n, n || '@example.org' FROM generate_series(1, 30) n;
    CREATE TABLE orders (id int PRIMARY KEY, customer int, note text, twice int GENERATED ALWAYS AS (id * 2) STORED);
    INSERT INTO orders SELECT n, n, 'first' FROM generate_series(1, 30) n;
    CREATE TABLE keyless (note text);
"""
UP_TO_THE_ROOT = "../" * 30 + "."
"""From whatever folder a command runs in."""


@dataclass(frozen=True)
class Shop:
    """What was backed up: full, then incremental; a moment in between, and the transaction after it."""

    settings: dict[str, str]
    full: str
    moment: datetime
    lsn: str
    xid: int


@pytest.fixture(scope="module")
async def shop(servers: Servers, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Shop]:
    server = await servers.get(DEFAULT_MAJOR)
    database = await server.create()
    await database.execute(SHOP)
    settings = settings_of(database, tmp_path_factory.mktemp("exported"))
    full = await succeed("backup", "incremental", settings=settings)
    async with database.connect() as connection:
        await connection.execute("UPDATE orders SET note = 'second' WHERE id <= 10")
        moment, lsn = await connection.fetchrow("SELECT clock_timestamp(), pg_current_wal_insert_lsn()::text")
        async with connection.transaction():
            xid = await connection.fetchval("SELECT pg_current_xact_id()::text::bigint")
            await connection.execute("DELETE FROM orders WHERE id > 5")
    await succeed("backup", "incremental", settings=settings)
    yield Shop(settings, full["id"], moment, lsn, xid)
    await server.drop(database)


def notes(folder: Path) -> list[str]:
    with (folder / "public" / "orders.csv").open(newline="") as file:
        return [row["note"] for row in csv.DictReader(file)]


async def test_the_newest_backup_is_exported_and_its_files_told(shop: Shop, tmp_path: Path) -> None:
    out = tmp_path / "new" / "folder"
    result = await succeed("export", "--format", "csv", "--out", str(out), settings=shop.settings)
    assert notes(out) == ["second"] * 5
    told = {file["file"]: (file["bytes"], file["sha256"], file["rows"]) for file in result["files"]}
    assert (
        files(out)
        == {*told, "export.json"}
        == {f"public/{t}.csv" for t in ("customers", "orders", "keyless")} | {"export.json"}
    )
    for name, (size, sha256, _) in told.items():
        data = (out / name).read_bytes()
        assert (size, sha256) == (len(data), hashlib.sha256(data).hexdigest())
    assert told["public/orders.csv"][2] == 5
    assert "public.orders: generated columns are in no backup, and not exported: twice" in result["warnings"]
    contents = json.loads((out / "export.json").read_text())
    assert contents["files"] == result["files"]
    assert (contents["id"], contents["as_of"]) == (result["id"], result["as_of"].replace("Z", "+00:00"))


@pytest.mark.parametrize("how", ["--at", "--at-lsn", "--before-xid"])
async def test_any_moment_is_exported(shop: Shop, tmp_path: Path, how: str) -> None:
    point = {"--at": shop.moment.isoformat(), "--at-lsn": shop.lsn, "--before-xid": str(shop.xid)}[how]
    arguments = ("--format", "csv", "--out", str(tmp_path), "--table", "orders", how, point)
    await succeed("export", *arguments, settings=shop.settings)
    assert sorted(notes(tmp_path)) == ["first"] * 20 + ["second"] * 10
    assert files(tmp_path) == {"public/orders.csv", "export.json"}


async def test_a_backup_by_its_id_is_exported_as_lines_compressed(shop: Shop, tmp_path: Path) -> None:
    arguments = ("--format", "json", "--lines", "--compress", "gzip", "--out", str(tmp_path), "--table", "orders")
    result = await succeed("export", shop.full, *arguments, settings=shop.settings)
    assert [file["file"] for file in result["files"]] == ["public/orders.jsonl.gz"]
    assert result["files"][0]["rows"] == 30
    assert result["id"] == shop.full


async def test_masks_hide_values_by_the_key_and_the_trail_says_which_columns(shop: Shop, tmp_path: Path) -> None:
    key = tmp_path / "key"
    key.write_text(KEY)
    settings = shop.settings | {"ROWVAULT_EXPORT__MASK_KEY_FILE": str(key)}
    out = tmp_path / "out"
    await succeed(
        *("export", "--format", "json", "--out", UP_TO_THE_ROOT + str(out), "--omit", "orders.customer"),
        *("--mask", "customers.email=hash", "--mask", "orders.note=fixed:a secret text"),
        settings=settings,
    )
    rows: list[dict[str, Any]] = json.loads((out / "public" / "customers.json").read_text())
    assert rows[0]["email"] == hmac.new(KEY.encode(), b"1@example.org", "sha256").hexdigest()
    assert json.loads((out / "public" / "orders.json").read_text())[0].keys() == {"id", "note"}
    entries = await succeed("trail", settings=settings)
    entry = next(one for one in entries["entries"] if one["what"] == "export" and one["details"]["masked"])
    assert entry["details"]["masked"] == {"public.customers": {"email": "hash"}, "public.orders": {"note": "fixed"}}
    assert entry["details"]["omitted"] == {"public.orders": ["customer"]}
    assert entry["details"]["out"] == str(out)
    assert entry["details"]["tables"] == ["public.customers", "public.keyless", "public.orders"]
    assert "a secret text" not in json.dumps(entries)
    assert KEY not in json.dumps(entries)


async def test_a_dry_run_shows_the_files_and_writes_nothing(shop: Shop, tmp_path: Path) -> None:
    arguments = ("export", "--format", "parquet", "--out", str(tmp_path / "out"), "--dry-run", "--omit", "orders.note")
    plan = await succeed(*arguments, settings=shop.settings)
    assert {file["file"]: file["rows"] for file in plan["files"]}["public/orders.parquet"] == 5
    answer = await rowvault(*arguments, env=shop.settings)
    assert answer.returncode == DONE
    assert "public/orders.parquet" in answer.stdout
    assert files(tmp_path) == set()


async def test_a_folder_that_is_not_empty_is_refused_and_with_yes_only_the_same_names_are_replaced(
    shop: Shop, tmp_path: Path
) -> None:
    (tmp_path / "public").mkdir()
    (tmp_path / "public" / "orders.csv").write_text("old")
    (tmp_path / "mine").write_text("mine")
    arguments = ("export", "--format", "csv", "--out", str(tmp_path), "--table", "orders")
    error = await refuse(*arguments, settings=shop.settings, code=REFUSED)
    assert "is not empty" in error["message"]
    await refuse(*arguments, "--dry-run", settings=shop.settings, code=REFUSED)
    assert (tmp_path / "public" / "orders.csv").read_text() == "old"
    await succeed(*arguments, "--yes", settings=shop.settings)
    assert notes(tmp_path) == ["second"] * 5
    assert (tmp_path / "mine").read_text() == "mine"


BAD: dict[str, tuple[tuple[str, ...], int, str]] = {
    "no such table": (("--format", "csv", "--table", "nothing"), NOT_FOUND, "no table nothing"),
    "no such column": (("--format", "csv", "--omit", "orders.nothing"), USAGE, "has no column nothing"),
    "a column of no table": (("--format", "csv", "--omit", "nothing.id"), NOT_FOUND, "no table nothing"),
    "a generated column": (("--format", "csv", "--mask", "orders.twice=null"), USAGE, "is generated"),
    "a hash without a key": (("--format", "csv", "--mask", "orders.note=hash"), USAGE, "needs a key"),
    "an unknown format": (("--format", "xml"), USAGE, "xml"),
    "no format": ((), USAGE, "--format"),
    "lines of csv": (("--format", "csv", "--lines"), USAGE, "--lines goes with"),
    "a backup and a moment": (("latest", "--format", "csv", "--at", "2026-01-01"), USAGE, "not both"),
}


@pytest.mark.parametrize("case", BAD)
async def test_what_cannot_be_exported_is_told_and_nothing_is_written(shop: Shop, tmp_path: Path, case: str) -> None:
    arguments, code, message = BAD[case]
    error = await refuse("export", *arguments, "--out", str(tmp_path / "out"), settings=shop.settings, code=code)
    assert message in error["message"]
    assert files(tmp_path) == set()
