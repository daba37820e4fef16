"""Passwords, keys and tokens are shown nowhere: not printed, logged, stored, served, or given in arguments.

Every secret here holds odd characters and, in their middle, a word that no encoding of them changes and nothing else
holds: wherever that word shows, the secret does.
"""

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.conftest import Bucket, CreateDatabase
from tests.daemons import serving_command, until
from tests.faults.commands import DONE, FAILED, IMPATIENT, USAGE, off_site, settings_of
from tests.faults.places import contents
from tests.programs import real_rowvault, rowvault
from tests.servers import Database, Server

SHOP = """
    CREATE TABLE orders (id int PRIMARY KEY);
    INSERT INTO orders SELECT generate_series(1, 1000);
    CREATE TABLE notes (id int);
"""
DEBUG = {"ROWVAULT_LOG_LEVEL": "debug"}


def odd(word: str) -> str:
    return rf"""p@s:/?#[]%2F&='"\ +é$;{word}p@s:/?#[]%2F&='"\ +é$;"""


PASSWORD, PASSWORD_WORD = odd("xyzzyalpha"), "xyzzyalpha"
TOKEN, TOKEN_WORD = odd("xyzzybeta"), "xyzzybeta"
KEY, KEY_WORD = odd("xyzzygamma"), "xyzzygamma"


@dataclass(frozen=True)
class Shop:
    """A database, and the DSN of a superuser with an odd password."""

    database: Database
    dsn: str


@pytest.fixture
async def odd_role(server: Server) -> AsyncIterator[str]:
    """A superuser with an odd password."""
    at = server.maintenance
    await at.execute(await at.value("SELECT format('CREATE ROLE odd SUPERUSER LOGIN PASSWORD %L', $1::text)", PASSWORD))
    yield "odd"
    await at.execute("DROP ROLE odd")


@pytest.fixture
async def shop(odd_role: str, create_database: CreateDatabase) -> Shop:
    database = await create_database(key="secretive", build=SHOP)
    return Shop(database, database.as_role(odd_role, PASSWORD))


def require_no_secret(shown: str | bytes, *words: str) -> None:
    text = shown.decode(errors="replace") if isinstance(shown, bytes) else shown
    for word in (PASSWORD_WORD, TOKEN_WORD, KEY_WORD, *words):
        assert word not in text, text


def arguments_and_environments(parent: int) -> dict[str, bytes]:
    """What anybody sees of the processes below one, and what they were given: by the names of their programs."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError, IndexError):
            if int((folder / "stat").read_text().rpartition(")")[2].split()[1]) == parent:
                command = (folder / "cmdline").read_bytes()
                found[Path(os.fsdecode(command.split(b"\0")[0])).name] = command + (folder / "environ").read_bytes()
    return found


async def test_a_backup(shop: Shop, tmp_path: Path, bucket: Bucket) -> None:
    settings = settings_of(shop.dsn, tmp_path / "backups", EXCLUDE_TABLES="public.notes") | off_site(bucket)
    async with real_rowvault("backup", env=settings) as process:
        async with shop.database.connect() as application, application.transaction():
            await application.execute("LOCK TABLE notes IN ACCESS EXCLUSIVE MODE")
            await waits_for_a_lock(shop.database)
            below = arguments_and_environments(process.pid)
        output, errors = await process.communicate()
    assert process.returncode == DONE, errors
    assert "pg_dump" in below
    for shown in (*below.values(), output, errors):
        require_no_secret(shown, bucket.secret_key)
    stored = await contents(settings)
    assert {name.split("/")[0] for name in stored} == {"local", "s3"}
    for name, data in stored.items():
        require_no_secret(name, bucket.secret_key)
        require_no_secret(data, bucket.secret_key, "SCRAM-SHA-256")


async def waits_for_a_lock(database: Database) -> None:
    """Wait until pg_dump or pg_restore waits for somebody."""

    async def waits() -> bool:
        waiting = "SELECT count(*) FROM pg_stat_activity WHERE datname = $1 AND wait_event_type = 'Lock'"
        return bool(await database.value(f"{waiting} AND application_name = 'rowvault: schema'", database.name))

    await until(waits)


HOLD = """
    CREATE SCHEMA hold;
    CREATE FUNCTION hold.wait() RETURNS event_trigger LANGUAGE plpgsql AS $$ BEGIN
        IF current_setting('application_name') = 'rowvault: schema' THEN PERFORM pg_advisory_xact_lock(1); END IF;
    END $$;
    CREATE EVENT TRIGGER hold ON ddl_command_start EXECUTE FUNCTION hold.wait();
"""


async def test_a_restore_with_a_password_typed_in(shop: Shop, tmp_path: Path, create_database: CreateDatabase) -> None:
    settings = settings_of(shop.dsn, tmp_path / "backups")
    assert (await rowvault("backup", env=settings)).returncode == DONE
    target = await create_database()
    await target.execute(HOLD)
    async with real_rowvault("restore", "--yes", "--to", target.as_role("odd", PASSWORD), env=settings) as process:
        async with target.connect() as holder, holder.transaction():
            await holder.execute("SELECT pg_advisory_xact_lock(1)")
            await waits_for_a_lock(target)
            below = arguments_and_environments(process.pid)
        output, errors = await process.communicate()
    assert process.returncode == DONE, errors
    assert "pg_restore" in below
    for shown in (*below.values(), output, errors):
        require_no_secret(shown)
    assert b"a password on the command line shows in the process list" in errors


async def test_every_other_command(shop: Shop, tmp_path: Path, bucket: Bucket) -> None:
    settings = settings_of(shop.dsn, tmp_path / "backups") | off_site(bucket)
    assert (await rowvault("backup", env=settings)).returncode == DONE
    for command in (["doctor"], ["doctor", "--json"], ["settings"], ["show", "latest"], ["verify", "--all"]):
        answer = await rowvault(*command, env=settings)
        assert answer.returncode == DONE, answer.stdout + answer.stderr
        require_no_secret(answer.stdout + answer.stderr, bucket.secret_key)


async def test_commands_that_are_refused_by_either_end(shop: Shop, tmp_path: Path, bucket: Bucket) -> None:
    wrong = shop.database.as_role("odd", odd("xyzzydelta"))
    refused_keys = off_site(bucket, SECRET_ACCESS_KEY=KEY, SESSION_TOKEN=TOKEN) | IMPATIENT
    for settings in (settings_of(wrong, tmp_path / "backups"), settings_of(shop.dsn) | refused_keys):
        for answer in await asyncio.gather(rowvault("backup", env=settings), rowvault("doctor", env=settings)):
            assert answer.returncode == FAILED
            require_no_secret(answer.stdout + answer.stderr, "xyzzydelta")


async def test_the_daemon_that_succeeds(shop: Shop, tmp_path: Path, bucket: Bucket) -> None:
    settings = settings_of(shop.dsn, tmp_path / "backups") | off_site(bucket) | DEBUG
    async with serving_command("run", settings) as daemon:
        await daemon.logged("backup committed")
        pages = [str(await daemon.get(path)) for path in ("/livez", "/readyz", "/healthz")]
        pages.append(await daemon.exposition())
        await daemon.terminate()
        await daemon.read_out()
    for shown in (*pages, str(daemon.lines)):
        require_no_secret(shown, bucket.secret_key)


async def test_the_daemon_that_is_refused_by_either_end(shop: Shop, bucket: Bucket) -> None:
    wrong = shop.database.as_role("odd", odd("xyzzydelta"))
    settings = settings_of(wrong) | off_site(bucket, SECRET_ACCESS_KEY=KEY, SESSION_TOKEN=TOKEN) | DEBUG | IMPATIENT
    async with serving_command("run", settings) as daemon:
        await daemon.logged("not ready")
        pages = [str(await daemon.get(path)) for path in ("/livez", "/readyz", "/healthz")]
        pages.append(await daemon.exposition())
        await daemon.terminate()
        await daemon.read_out()
    assert "refused the login" in pages[1]
    for shown in (*pages, str(daemon.lines)):
        require_no_secret(shown, "xyzzydelta")


UNENCODED = "@:/?#[%&"
"""Such a character may cut the password in two, neither of which may be shown as a host, a port or a database."""


async def test_the_address_of_a_source_with_a_password_that_is_not_encoded(tmp_path: Path) -> None:
    for first, second in zip(UNENCODED[::2], UNENCODED[1::2], strict=True):
        await asyncio.gather(_backup_from(first, tmp_path), _backup_from(second, tmp_path))


async def _backup_from(character: str, folder: Path) -> None:
    settings = settings_of(_unencoded(character), folder)
    answer = await rowvault("backup", env=settings)
    assert answer.returncode in (FAILED, USAGE)
    require_no_secret(answer.stdout + answer.stderr, "xyzzydelta", "xyzzyepsilon")


async def test_the_address_of_a_target_with_a_password_that_is_not_encoded(shop: Shop, tmp_path: Path) -> None:
    settings = settings_of(shop.dsn, tmp_path / "backups")
    assert (await rowvault("backup", env=settings)).returncode == DONE
    for character in "@/":
        answer = await rowvault("restore", "--yes", "--to", _unencoded(character), env=settings)
        assert answer.returncode in (FAILED, USAGE)
        require_no_secret(answer.stdout + answer.stderr, "xyzzydelta", "xyzzyepsilon")


def _unencoded(character: str) -> str:
    return f"postgresql://app:xyzzydelta{character}xyzzyepsilon@127.0.0.1:1/shop"


async def test_a_secret_in_a_file_that_cannot_be_used(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text(f"postgresql//{PASSWORD}")
    settings = settings_of(None, tmp_path / "backups", DATABASE_URL_FILE=str(secret))
    answer = await rowvault("backup", env=settings)
    assert answer.returncode == USAGE
    require_no_secret(answer.stdout + answer.stderr)
