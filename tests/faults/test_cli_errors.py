"""Whatever is asked for wrongly: one line that says what happened, one that says what to do, and the right exit code.

`refuse` looks at both forms, for people and for scripts.
"""

import itertools
import json
import shutil
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from jobs.postgres.connection import Source
from jobs.postgres.embedded import find_servers
from jobs.postgres.lock import JobLock
from storage.names import REPOSITORY
from tests.conftest import CreateDatabase, Pooled
from tests.faults.commands import (
    DIFFERENCE,
    DONE,
    FAILED,
    NOT_FOUND,
    REFUSED,
    USAGE,
    document,
    refuse,
    settings_of,
    succeed,
)
from tests.faults.places import files, is_absent
from tests.programs import free_port, rowvault
from tests.servers import DEFAULT_MAJOR, Database, Servers

SHOP = """
    CREATE TABLE orders (id int PRIMARY KEY, tenant text NOT NULL);
    INSERT INTO orders SELECT n, CASE WHEN n % 2 = 0 THEN 'even' ELSE 'odd' END FROM generate_series(1, 1000) AS n;
    CREATE TABLE notes (id int PRIMARY KEY, text text);
    INSERT INTO notes VALUES (1, 'one'), (2, NULL);
"""
NO_BACKUP = "20260101T020000.000Z-full-0a1b2c"

_roles = itertools.count(1)


@pytest.fixture(scope="module")
async def shop(servers: Servers) -> AsyncIterator[Database]:
    """A small database that tests back up and do not change."""
    server = await servers.get(DEFAULT_MAJOR)
    made = await server.create("shop")
    await made.execute(SHOP)
    yield made
    await server.drop(made)


@dataclass(frozen=True)
class Kept:
    """A repository with one backup of the shop, whose files a test may change."""

    folder: Path
    id: str
    settings: dict[str, str]

    @property
    def data(self) -> Path:
        """The object that holds the orders."""
        return next(self.folder.glob("backups/*/data/public/orders/*"))

    @property
    def manifest(self) -> Path:
        return next(self.folder.glob("manifests/*"))


@pytest.fixture(scope="module")
async def original(shop: Database, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("kept") / "backups"
    await succeed("backup", settings=settings_of(shop, folder))
    return folder


@pytest.fixture
def kept(shop: Database, original: Path, tmp_path: Path) -> Kept:
    folder = tmp_path / "kept"
    shutil.copytree(original, folder)
    (backup,) = (path.name for path in (folder / "backups").iterdir())
    return Kept(folder, backup, settings_of(shop, folder))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where backups would go."""
    return tmp_path / "backups"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Something that is no folder."""
    path = tmp_path / "file"
    path.write_text("not a folder")
    return path


@pytest.fixture
async def limited(create_database: CreateDatabase) -> AsyncIterator[tuple[Database, str]]:
    """A copy of the shop, and the DSN of a role that may not do anything there yet."""
    database = await create_database(key="little_shop", build=SHOP)
    role = f"limited_{next(_roles)}"
    await database.execute(f"CREATE ROLE {role} LOGIN PASSWORD 'limited'")
    yield database, database.as_role(role, "limited")
    await database.execute(f"DROP OWNED BY {role}; DROP ROLE {role}")


def role_of(dsn: str) -> str:
    return dsn.removeprefix("postgresql://").partition(":")[0]


# Reaching the database


async def test_a_wrong_password(shop: Database, folder: Path) -> None:
    wrong = shop.as_role("postgres", "wrong-password")
    error = await refuse("backup", settings=settings_of(wrong, folder), code=FAILED)
    assert "refused the login" in error["message"]
    assert is_absent(folder)


async def test_an_unreachable_host(folder: Path) -> None:
    settings = settings_of(f"postgresql://postgres@127.0.0.1:{free_port()}/shop", folder)
    error = await refuse("backup", settings=settings, code=FAILED)
    assert "cannot be reached" in error["message"]
    assert is_absent(folder)


async def test_an_unknown_database(shop: Database, folder: Path) -> None:
    settings = settings_of(shop.dsn.replace("/shop", "/no_such_shop"), folder)
    error = await refuse("backup", settings=settings, code=FAILED)
    assert 'database "no_such_shop" does not exist' in error["message"]
    assert is_absent(folder)


async def test_a_pooler_in_transaction_mode(shop: Database, pooled: Pooled, folder: Path) -> None:
    error = await refuse("backup", settings=settings_of(await pooled(shop, "transaction"), folder), code=REFUSED)
    assert "pooler in transaction mode" in error["message"]
    assert "session mode" in error["hint"]
    assert is_absent(folder)


async def test_a_pg_dump_that_is_too_old(shop: Database, folder: Path) -> None:
    old = find_servers()[16]
    error = await refuse("backup", settings=settings_of(shop, folder, PG_BIN=str(old)), code=REFUSED)
    assert "the server is PostgreSQL 18, the newest pg_dump at hand 16." in error["message"]
    assert "PG_BIN" in error["hint"]
    assert is_absent(folder)


async def test_another_job_is_running(shop: Database, folder: Path) -> None:
    lock = await JobLock.take(Source(shop.dsn), "daily-full on app-7 pid 1")
    try:
        error = await refuse("backup", settings=settings_of(shop, folder), code=REFUSED)
    finally:
        await lock.release()
    assert "another job is running: daily-full on app-7 pid 1" in error["message"]
    assert is_absent(folder)


# Which tables, and whether they may be read


async def test_a_pattern_that_matches_no_table(shop: Database, folder: Path) -> None:
    settings = settings_of(shop, folder, TABLES="public.orders,public.Orders")
    error = await refuse("backup", settings=settings, code=NOT_FOUND)
    assert "the pattern public.Orders in ROWVAULT_TABLES matches no table" in error["message"]
    assert files(folder) <= {REPOSITORY}


async def test_a_pattern_that_is_none_is_told_before_anybody_is_asked(folder: Path) -> None:
    nowhere = f"postgresql://postgres@127.0.0.1:{free_port()}/shop"
    error = await refuse("backup", settings=settings_of(nowhere, folder, TABLES="a.b.c"), code=USAGE)
    assert "'a.b.c' is not a table name" in error["message"]
    assert is_absent(folder)


async def test_a_role_that_row_security_would_filter(limited: tuple[Database, str], folder: Path) -> None:
    database, dsn = limited
    await database.execute(f"GRANT SELECT ON orders, notes TO {role_of(dsn)}")
    await database.execute("ALTER TABLE orders ENABLE ROW LEVEL SECURITY; CREATE POLICY p ON orders USING (id < 10)")
    error = await refuse("backup", settings=settings_of(dsn, folder), code=FAILED)
    assert 'row-level security policy for table "orders"' in error["message"]
    assert "BYPASSRLS" in error["hint"]
    assert files(folder) <= {REPOSITORY}


async def test_a_role_without_select_on_one_table(limited: tuple[Database, str], folder: Path) -> None:
    database, dsn = limited
    await database.execute(f"GRANT SELECT ON notes TO {role_of(dsn)}")
    error = await refuse("backup", settings=settings_of(dsn, folder), code=FAILED)
    assert "public.orders" in error["message"]
    assert "public.notes" not in error["message"]
    assert "GRANT SELECT" in error["hint"]
    assert files(folder) <= {REPOSITORY}


# Settings


SETTINGS = {
    "misspelt": ({"TABELS": "public.*"}, "ROWVAULT_TABELS: is not a setting; the nearest is ROWVAULT_TABLES"),
    "cron line": ({"SCHEDULE__FULL": "0 25 * * *"}, "ROWVAULT_SCHEDULE__FULL: "),
    "duration": ({"LOCK_TIMEOUT": "5"}, "ROWVAULT_LOCK_TIMEOUT: must be a whole number above zero and a unit"),
    "no place": ({"LOCAL_PATH": ""}, "ROWVAULT_LOCAL_PATH or ROWVAULT_S3__BUCKET: at least one must be set"),
    "no database": ({"DATABASE_URL": ""}, "ROWVAULT_DATABASE_URL: must be set"),
    "bad DSN": ({"DATABASE_URL": "postgres:/shop"}, "ROWVAULT_DATABASE_URL: must begin with postgresql://"),
    "half of S3": ({"S3__REGION": "eu-1"}, "ROWVAULT_S3__BUCKET: must be set"),
    "no such file": ({"S3__BUCKET_FILE": "/no/such/file"}, "ROWVAULT_S3__BUCKET_FILE: cannot read /no/such/file"),
}


@pytest.mark.parametrize("case", SETTINGS)
async def test_a_setting_that_cannot_be(shop: Database, folder: Path, case: str) -> None:
    wrong, message = SETTINGS[case]
    settings = settings_of(shop, folder) | {f"ROWVAULT_{name}": value for name, value in wrong.items()}
    error = await refuse("backup", settings=settings, code=USAGE)
    assert error["message"].startswith(message)
    assert is_absent(folder)


async def test_the_daemon_does_not_start_with_a_setting_that_cannot_be(shop: Database, folder: Path) -> None:
    answer = await rowvault("run", env=settings_of(shop, folder, SCHEDULE__FULL="every day"))
    assert answer.returncode == USAGE
    assert "ROWVAULT_SCHEDULE__FULL" in answer.stderr


# The command line itself


USAGES = {
    "unknown command": ("bakcup",),
    "unknown option": ("backup", "--fast"),
    "unknown kind": ("backup", "complete"),
    "no target": ("restore",),
    "target that is none": ("restore", "--to", "shop"),
    "target in no variable": ("restore", "--to", "env:NOT_SET"),
    "target in no file": ("restore", "--to", "@/no/such/file"),
    "nothing to verify": ("verify",),
    "too much to verify": ("verify", "latest", "--all"),
    "no share": ("verify", "latest", "--sample", "some"),
    "long label": ("backup", "--label", "long" * 50),
    "reason that no file can hold": ("backup", "--reason", "caf\udce9"),
    "reason to keep it that no file can hold": ("keep", "latest", "--reason", "caf\udce9"),
}


@pytest.mark.parametrize("case", USAGES)
async def test_what_cannot_be_meant(kept: Kept, case: str) -> None:
    before = files(kept.folder)
    await refuse(*USAGES[case], settings=kept.settings, code=USAGE)
    assert files(kept.folder) == before


# Backups


UNKNOWN = (("show",), ("verify",), ("diff",), ("keep",), ("restore", "--yes", "--to", "env:ROWVAULT_DATABASE_URL"))


@pytest.mark.parametrize("command", UNKNOWN, ids=lambda command: str(command[0]))
async def test_a_backup_that_is_not_there(kept: Kept, command: tuple[str, ...]) -> None:
    before = files(kept.folder)
    error = await refuse(*command, NO_BACKUP, settings=kept.settings, code=NOT_FOUND)
    assert NO_BACKUP in error["message"]
    assert "rowvault list" in error["hint"]
    assert files(kept.folder) == before


async def test_latest_where_there_is_none(shop: Database, folder: Path) -> None:
    error = await refuse("show", "latest", settings=settings_of(shop, folder), code=NOT_FOUND)
    assert "there is no backup yet" in error["message"]


async def test_latest_is_the_newest_that_is_whole(kept: Kept) -> None:
    newer = await succeed("backup", settings=kept.settings)
    assert (await succeed("show", "latest", settings=kept.settings))["id"] == newer["id"]
    next(kept.folder.glob(f"backups/{newer['id']}/data/public/orders/*")).unlink()
    assert (await rowvault("verify", "--all", env=kept.settings)).returncode == DIFFERENCE
    assert (await succeed("show", "latest", settings=kept.settings))["id"] == kept.id


async def test_a_repository_of_another_database_until_it_is_adopted(
    create_database: CreateDatabase, kept: Kept
) -> None:
    other = settings_of(await create_database(key="little_shop", build=SHOP), kept.folder)
    before = files(kept.folder)
    error = await refuse("backup", settings=other, code=REFUSED)
    assert "local holds backups of database 'shop'" in error["message"]
    assert "--adopt" in error["hint"]
    assert files(kept.folder) == before
    assert (await succeed("backup", "--adopt", settings=other))["state"] == "success"
    assert len(await succeed("list", settings=other)) == 2


# Restoring


async def test_restoring_without_a_yes_and_without_a_terminal(kept: Kept, create_database: CreateDatabase) -> None:
    target = await create_database()
    error = await refuse("restore", "latest", "--to", target.dsn, settings=kept.settings, code=REFUSED, stdin="y\n")
    assert "--yes" in error["hint"]
    assert await is_empty(target)


async def test_restoring_into_a_table_of_another_shape(kept: Kept, create_database: CreateDatabase) -> None:
    target = await create_database()
    await target.execute("CREATE TABLE orders (id int PRIMARY KEY)")
    error = await refuse("restore", "--yes", "--to", target.dsn, settings=kept.settings, code=REFUSED)
    assert "public.orders has no column tenant any more" in error["message"]
    assert await target.fetch("SELECT relname FROM pg_class WHERE relkind = 'r' AND relnamespace = 2200") == [
        ("orders",)
    ]


async def test_restoring_what_is_damaged(kept: Kept, create_database: CreateDatabase) -> None:
    target = await create_database()
    flip(kept.data)
    error = await refuse("restore", "--yes", "--to", target.dsn, settings=kept.settings, code=DIFFERENCE)
    assert "is not whole in any place" in error["message"]
    assert "rowvault list" in error["hint"]
    assert await is_empty(target)


async def is_empty(database: Database) -> bool:
    return await database.fetch("SELECT FROM pg_class WHERE relnamespace = 2200") == []


# What is damaged


def flip(path: Path) -> None:
    """Change one byte in the middle."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0x01
    path.write_bytes(data)


async def test_verifying_what_is_damaged_names_every_problem(kept: Kept) -> None:
    flip(kept.data)
    (kept.folder / "backups" / kept.id / "roles.sql").unlink()
    answer = await rowvault("verify", kept.id, "--json", env=kept.settings)
    assert answer.returncode == DIFFERENCE
    verified = document(answer)
    assert verified["state"] == "failed"
    for problem in verified["problems"]:
        assert set(problem) == {"place", "object", "table", "kind", "expected", "found"}
    assert sorted((one["place"], one["table"], one["kind"]) for one in verified["problems"] if one["table"]) == [
        ("local", "public.orders", "sha256_stored")
    ]
    assert [(one["object"].split("/")[-1], one["kind"]) for one in verified["problems"] if not one["table"]] == [
        ("roles.sql", "missing")
    ]


async def test_verifying_all_tells_which_backup_is_damaged(kept: Kept) -> None:
    newer = await succeed("backup", settings=kept.settings)
    flip(next(kept.folder.glob(f"backups/{kept.id}/data/public/orders/*")))
    answer = await rowvault("verify", "--all", "--json", env=kept.settings)
    assert answer.returncode == DIFFERENCE
    assert {one["id"]: one["state"] for one in document(answer)} == {kept.id: "failed", newer["id"]: "success"}


async def test_a_manifest_that_was_taken_is_told_and_what_it_described_stays(kept: Kept) -> None:
    kept.manifest.unlink()
    answer = await rowvault("verify", "--all", "--json", env=kept.settings)
    assert answer.returncode == DIFFERENCE
    [verified] = document(answer)
    assert [(one["object"], one["kind"]) for one in verified["problems"]] == [(f"manifests/{kept.id}", "missing")]
    error = await refuse("verify", kept.id, settings=kept.settings, code=NOT_FOUND)
    assert f"the manifest of {kept.id} is gone from local" in error["message"]
    newer = await succeed("backup", settings=kept.settings)
    assert [one for one in newer["warnings"] if kept.id in one]
    assert kept.data.exists()


async def test_a_manifest_that_was_altered(kept: Kept, create_database: CreateDatabase) -> None:
    kept.manifest.write_bytes(kept.manifest.read_bytes().replace(b'"rows": 1000', b'"rows": 1001', 1))
    answer = await rowvault("verify", kept.id, "--json", env=kept.settings)
    assert answer.returncode == DIFFERENCE
    assert [problem["kind"] for problem in document(answer)["problems"]] == ["altered"]
    target = await create_database()
    await refuse("show", kept.id, settings=kept.settings, code=DIFFERENCE)
    await refuse("restore", kept.id, "--yes", "--to", target.dsn, settings=kept.settings, code=DIFFERENCE)
    assert await is_empty(target)


async def test_a_repository_file_that_cannot_be_read(kept: Kept) -> None:
    (kept.folder / REPOSITORY).write_text("{")
    error = await refuse("backup", settings=kept.settings, code=DIFFERENCE)
    assert "--adopt" in error["hint"]
    assert (await succeed("backup", "--adopt", settings=kept.settings))["state"] == "success"


async def test_a_folder_that_is_a_file(shop: Database, file: Path) -> None:
    error = await refuse("backup", settings=settings_of(shop, file), code=FAILED)
    assert str(file) in error["message"]
    assert files(file.parent) == {file.name}


async def test_every_command_that_reports_prints_one_document(kept: Kept) -> None:
    for command in (["list"], ["show", "latest"], ["keep", "latest"], ["release", "latest"], ["settings"]):
        answer = await rowvault(*command, "--json", env=kept.settings)
        assert answer.returncode == DONE
        assert json.loads(answer.stdout)
        assert answer.stderr == ""
