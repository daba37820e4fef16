"""RESTORE.txt is true: the folder of a backup, `psql`, `pg_restore`, `zstd`, and `age`, bring everything back."""

import asyncio
import json
import os
import re
from asyncio.subprocess import PIPE, STDOUT
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
import zstandard

import storage
from jobs.copying.table_copy import CopyOptions
from storage.backends.local import LocalBackend
from storage.manifest import StoredFile
from storage.repository import Repository
from tests import hostile
from tests.compare import differences
from tests.conftest import CreateDatabase
from tests.end_to_end.test_round_trip import BELONGS_TO_NO_TABLE, OURS, fill_views
from tests.keys import new_key
from tests.places import DAMAGES, Planter
from tests.round_trip import SMALL_PIECES, Taken, back_up
from tests.servers import Database, Server, program

OPENING = re.compile(r"^  (?P<command>(?:export|for) .*)$", re.MULTILINE)
KEY = new_key()
SEALED = replace(SMALL_PIECES, recipients=KEY.recipients)
STEP = re.compile(r"^  \d\.  (?P<command>.*?)(?:  +#.*)?$", re.MULTILINE)


@pytest.fixture
async def target(server: Server) -> AsyncIterator[Database]:
    """A name for a database; that it is made is one of the steps."""
    made = await server.create()
    await server.drop(made)
    yield made
    await server.drop(made)


async def saved(source: Database, folder: Path, copying: CopyOptions | None = None) -> tuple[Taken, Path]:
    """A backup on disk, and its folder."""
    place = Repository("local", LocalBackend(folder))
    taken = await back_up(source, copying=copying, repository=place)
    return taken, folder / "backups" / taken.result.id


async def shell(command: str, folder: Path, database: Database) -> tuple[int, str]:
    """Run a command as somebody at a terminal would; its exit code and all it says."""
    embedded = database.server.embedded
    zstd = Path(program("zstd", "zstd", ["/usr/bin"]))
    surroundings = {
        "PATH": f"{database.server.binaries}:{zstd.parent}:{os.environ['PATH']}",
        "PGHOST": "127.0.0.1",
        "PGPORT": str(embedded.port),
        "PGUSER": embedded.user,
        "PGPASSWORD": embedded.password.get_secret_value(),
        "LC_ALL": "C",
    }
    process = await asyncio.create_subprocess_shell(command, cwd=folder, env=surroundings, stdout=PIPE, stderr=STDOUT)
    output, _ = await process.communicate()
    return process.returncode or 0, output.decode(errors="replace")


def steps(folder: Path, database: Database) -> list[str]:
    """The commands that RESTORE.txt tells one to give, for a database of another name."""
    text = (folder / "RESTORE.txt").read_text()
    return [step["command"].replace("restored", database.name) for step in STEP.finditer(text)]


async def follow(folder: Path, database: Database) -> None:
    """Do what RESTORE.txt says; it may only complain of what it says it will complain of."""
    roles, create, definitions, load, rest = steps(folder, database)
    await shell(roles, folder, database)
    for step in (create, definitions, f"export PGDATABASE={database.name}; {load}", rest):
        code, said = await shell(step, folder, database)
        complaints = [line for line in said.splitlines() if "error:" in line]
        assert all('schema "public" already exists' in line for line in complaints), said
        assert code == 0 or step == definitions, said


async def test_the_instructions_bring_everything_back(
    server: Server, create_database: CreateDatabase, target: Database, tmp_path: Path
) -> None:
    source = await create_database(server, key="hostile", build=hostile.hard_schema(server.major))
    await source.execute(BELONGS_TO_NO_TABLE)
    _, folder = await saved(source, tmp_path, SMALL_PIECES)
    await follow(folder, target)
    for database in (source, target):
        await fill_views(database)
    assert await differences(source, target, ignore_schemas=OURS) == []


async def test_the_settings_of_the_target_do_not_matter(database: Database, target: Database, tmp_path: Path) -> None:
    await database.execute("CREATE TABLE t (m money, i interval, d timestamptz)")
    await database.execute(
        "INSERT INTO t SELECT 1234.5, '-1 day +2 hours', '2026-03-04 05:06+00' FROM generate_series(1, 20000)"
    )
    _, folder = await saved(database, tmp_path)
    _, create, definitions, load, _ = steps(folder, target)
    for step in (create, definitions):
        await shell(step, folder, target)
    for setting in ("statement_timeout = 1", "IntervalStyle = 'sql_standard'", "DateStyle = 'SQL, DMY'"):
        await target.server.maintenance.execute(f"ALTER DATABASE {target.name} SET {setting}")
    code, said = await shell(f"export PGDATABASE={target.name}; {load}", folder, target)
    assert code == 0, said
    await target.server.maintenance.execute(f"ALTER DATABASE {target.name} RESET statement_timeout")
    assert await differences(database, target, ignore_schemas=OURS) == []


@pytest.mark.parametrize("damage", ["byte flipped", "truncated", "emptied", "deleted"])
async def test_a_damaged_file_stops_the_script_before_a_row_of_its_table_is_loaded(
    database: Database, target: Database, tmp_path: Path, damage: str
) -> None:
    await database.execute("CREATE TABLE t AS SELECT md5(n::text) FROM generate_series(1, 20000) AS n")
    taken, folder = await saved(database, tmp_path)
    _, create, definitions, load, _ = steps(folder, target)
    for step in (create, definitions):
        await shell(step, folder, target)
    longest = max((stored for part in taken.manifest.tables[0].parts for stored in part.objects), key=by_bytes)
    await DAMAGES[damage][0](Planter(taken.repository.backend), longest.name)
    code, said = await shell(f"export PGDATABASE={target.name}; {load}", folder, target)
    assert code != 0
    assert longest.name.rpartition("/")[2] in said
    assert await target.value("SELECT count(*) FROM t") == 0


async def test_a_file_that_was_cut_off_between_two_of_its_frames_stops_the_script_too(
    database: Database, target: Database, tmp_path: Path
) -> None:
    """What is left of it is whole zstd data."""
    await database.execute("CREATE TABLE t AS SELECT md5(n::text) FROM generate_series(1, 40000) AS n")
    taken, folder = await saved(database, tmp_path)
    _, create, definitions, load, _ = steps(folder, target)
    for step in (create, definitions):
        await shell(step, folder, target)
    file = tmp_path / taken.manifest.tables[0].parts[0].objects[0].name
    first_frame = zstandard.ZstdDecompressor().decompressobj()
    first_frame.decompress(file.read_bytes())
    file.write_bytes(file.read_bytes().removesuffix(first_frame.unused_data))
    code, said = await shell(f"zstd -tq {file}", folder, target)
    assert code == 0, said
    code, said = await shell(f"export PGDATABASE={target.name}; {load}", folder, target)
    assert code != 0
    assert f"{file.name} is damaged" in said
    assert await target.value("SELECT count(*) FROM t") == 0


def by_bytes(stored: StoredFile) -> int:
    return stored.bytes


@pytest.fixture
def identity(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file of it, which lies elsewhere."""
    path = tmp_path_factory.mktemp("identity") / "key file.txt"
    path.write_text(f"# created: just now\n{KEY.identity}\n")
    return path


async def open_up(folder: Path, database: Database, identity: Path) -> None:
    """Do what RESTORE.txt says of a backup that is encrypted."""
    program("age", "age", ["/usr/bin"])
    text = (folder / "RESTORE.txt").read_text()
    assert KEY.public in text
    export, loop, *_ = [step["command"] for step in OPENING.finditer(text)]
    code, said = await shell(f"{export.replace('FILE', repr(str(identity)))}\n{loop}", folder, database)
    assert code == 0, said


def loading(folder: Path, database: Database, identity: Path) -> str:
    load = steps(folder, database)[3]
    return f"export PGDATABASE={database.name} AGE_IDENTITY={str(identity)!r}; {load}"


async def test_the_instructions_bring_an_encrypted_backup_back(
    database: Database, target: Database, tmp_path: Path, identity: Path
) -> None:
    await database.execute(
        """
        CREATE TABLE "Odd Names" (id serial PRIMARY KEY, note text);
        INSERT INTO "Odd Names" (note) SELECT md5(n::text) FROM generate_series(1, 20000) AS n;
        CREATE TABLE none (id int PRIMARY KEY);
        """
    )
    _, folder = await saved(database, tmp_path, SEALED)
    await open_up(folder, target, identity)
    roles, create, definitions, _, rest = steps(folder, target)
    for step in (roles, create, definitions, loading(folder, target, identity), rest):
        code, said = await shell(step, folder, target)
        assert code == 0 or step in {roles, definitions}, said
    assert await differences(database, target, ignore_schemas=OURS) == []


@pytest.mark.parametrize("damage", ["first byte flipped", "byte flipped", "truncated", "emptied", "deleted"])
async def test_a_damaged_encrypted_file_stops_the_script_before_a_row_of_its_table_is_loaded(
    database: Database, target: Database, tmp_path: Path, identity: Path, damage: str
) -> None:
    await database.execute("CREATE TABLE t AS SELECT md5(n::text) FROM generate_series(1, 20000) AS n")
    taken, folder = await saved(database, tmp_path, SEALED)
    await open_up(folder, target, identity)
    for step in steps(folder, target)[1:3]:
        await shell(step, folder, target)
    longest = max((stored for part in taken.manifest.tables[0].parts for stored in part.objects), key=by_bytes)
    await DAMAGES[damage][0](Planter(taken.repository.backend), longest.name)
    code, said = await shell(loading(folder, target, identity), folder, target)
    assert code != 0
    assert f"{longest.name.rpartition('/')[2]} is damaged" in said
    assert await target.value("SELECT count(*) FROM t") == 0


async def test_what_the_documents_say_of_checking_is_true(database: Database, tmp_path: Path) -> None:
    await database.execute('CREATE TABLE "a b" AS SELECT n FROM generate_series(1, 1000) AS n')
    taken, _ = await saved(database, tmp_path)
    document = Path(storage.__file__).with_name("FORMAT.md").read_text()
    commands = [line.strip() for line in document.splitlines() if line.startswith("    ") and "sha256sum" in line]
    own_hash, objects = (command.replace("MANIFEST", str(taken.manifest.name())) for command in commands)
    code, said = await shell(own_hash, tmp_path, database)
    assert (code, said.split()[0]) == (0, json.loads((tmp_path / str(taken.manifest.name())).read_text())["sha256"])
    code, said = await shell(objects, tmp_path, database)
    assert code == 0, said
    assert said.count(": OK") == len(list(taken.manifest.objects()))
    await Planter(taken.repository.backend).flip(taken.manifest.dump.roles_sql.name)
    code, said = await shell(objects, tmp_path, database)
    assert code == 1
    assert f"{taken.manifest.dump.roles_sql.name}: FAILED" in said
