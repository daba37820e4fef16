"""`rowvault diff`: what it prints, and its exit codes."""

import asyncio
import json
import re
from pathlib import Path

import pytest

from daemon.app import open_app
from daemon.settings.load import load_settings
from storage.backends.local import LocalBackend
from storage.repository import Repository
from tests.conftest import CreateDatabase
from tests.daemons import environment, settings_for
from tests.diffing import ODD, diff_shop, plant
from tests.faults.commands import refuse
from tests.programs import rowvault
from tests.servers import Database, quoted


@pytest.fixture
async def shop(create_database: CreateDatabase) -> Database:
    return await diff_shop(create_database)


async def test_the_command_says_a_line_for_each_table_and_exits_with_3_if_any_differs(
    shop: Database, tmp_path: Path
) -> None:
    settings = environment(settings_for(shop, tmp_path))
    await rowvault("backup", env=settings)
    equal = await rowvault("diff", "latest", env=settings)
    assert (equal.returncode, equal.stdout.splitlines()[-1]) == (0, "no differences")
    assert re.fullmatch(r"comparing \d+ %\n", equal.stderr)
    await shop.execute(f"DELETE FROM customers WHERE id = 7; DELETE FROM {quoted(ODD)} WHERE b = 5")
    differing = await rowvault("diff", "latest", "--keys", env=settings)
    assert differing.returncode == 3
    shown = [" ".join(line.split()) for line in differing.stdout.splitlines()]
    assert shown[1] == "table rows in the backup rows live missing changed extra state note"
    assert "public.customers 500 499 1 0 0 differs" in shown
    assert "public.events_1 62 62 0 0 0 ok" in shown
    assert "public.customers missing: id=7" in shown
    assert f'public.{quoted(ODD)} missing: b=5 "the=key"="tab\\t, line\\n, back\\\\slash 5"' in shown
    assert shown[-1] == "differences in 2 of 6 tables"


async def test_the_command_prints_one_json_document(shop: Database, tmp_path: Path) -> None:
    settings = environment(settings_for(shop, tmp_path))
    first = json.loads((await rowvault("backup", "--json", env=settings)).stdout)["id"]
    await shop.execute("UPDATE customers SET name = '' WHERE id = 7")
    second = json.loads((await rowvault("backup", "--json", env=settings)).stdout)["id"]
    live, two, narrow = await asyncio.gather(
        rowvault("diff", "latest", "--json", env=settings),
        rowvault("diff", first, "--against", second, "--keys", "--json", env=settings),
        rowvault("diff", first, "--table", "events", "--json", env=settings),
    )
    assert [(done.returncode, done.stderr) for done in (live, two, narrow)] == [(0, ""), (3, ""), (0, "")]
    document = json.loads(live.stdout)
    assert set(document) == {"backup", "against", "tables", "equal", "warnings"}
    assert (document["backup"], document["against"], document["equal"]) == (second, "live", True)
    document = json.loads(two.stdout)
    assert (document["backup"], document["against"], document["equal"]) == (first, second, False)
    (customers,) = (table for table in document["tables"] if table["name"] == "customers")
    assert customers == {
        "schema": "public", "name": "customers", "missing": 0, "changed": 1, "extra": 0, "rows_backup": 500,
        "rows_other": 500, "note": "", "keys": {"missing": [], "changed": [{"id": "7"}], "extra": [], "more": False},
    }  # fmt: skip
    assert [table["name"] for table in json.loads(narrow.stdout)["tables"]] == ["events_1", "events_2"]


@pytest.mark.parametrize(
    ("args", "code"),
    [
        (("diff", "latest", "--table", "nope"), 4),
        (("diff", "20260101T020000.000Z-full-0a1b2c"), 4),
        (("diff", "latest", "--against", "20260101T020000.000Z-full-0a1b2c"), 4),
        (("diff", "latest", "--table", "no.such.name"), 2),
        (("diff",), 2),
    ],
)
async def test_what_cannot_be_compared_has_its_exit_code(
    shop: Database, tmp_path: Path, args: tuple[str, ...], code: int
) -> None:
    settings = environment(settings_for(shop, tmp_path))
    await rowvault("backup", env=settings)
    await refuse(*args, settings=settings, code=code)


async def test_a_damaged_backup_exits_with_3_and_an_error(shop: Database, tmp_path: Path) -> None:
    settings = environment(settings_for(shop, tmp_path))
    await rowvault("backup", env=settings)
    place = Repository("local", LocalBackend(tmp_path))
    (entry,) = (await place.catalogue()).entries
    await plant(await place.manifest(entry.id), place, "byte flipped")
    await shop.execute("DELETE FROM customers WHERE id = 7")
    error = await refuse("diff", "latest", settings=settings, code=3)
    assert "customers" in error["message"]


async def test_temporary_files_are_beside_the_backups_unless_a_folder_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a container, /tmp may be memory."""
    async with open_app(load_settings({"ROWVAULT_LOCAL_PATH": str(tmp_path)}, dotenv=None)) as app:
        monkeypatch.delenv("TMPDIR", raising=False)
        assert app.diff_options([], keys=False).scratch == tmp_path
        monkeypatch.setenv("TMPDIR", "/tmp")
        assert app.diff_options([], keys=False).scratch is None
