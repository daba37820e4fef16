"""Following a database: incremental backups of it into places, and what it was at the moments that they reach."""

from dataclasses import dataclass, field, replace
from datetime import datetime

from jobs.as_of import opened
from jobs.chains.points import Point
from jobs.copying.part_reading import read_part
from jobs.full_backup import full_backup
from jobs.incremental import incremental_backup
from jobs.incrementals.taking import CaptureOptions
from jobs.postgres.catalogue import Selection
from jobs.postgres.connection import Source
from jobs.preparing import BackupOptions
from jobs.results import BackupResult
from storage.increments import Difference, Increment
from storage.manifest import Manifest
from storage.repository import Repository
from tests.compare import EXACT_OUTPUT
from tests.round_trip import QUICK, memory
from tests.servers import Database

Lines = dict[str, list[bytes]]
"""Every table's rows as COPY writes them, sorted, by `schema.table`."""

_TABLES = """
    SELECT n.nspname, c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
     WHERE c.relkind = 'r' AND n.nspname = 'public'
"""


@dataclass(frozen=True)
class Follower:
    """A database and the places into which its changes go; `source` is what Rowvault connects to."""

    database: Database
    places: tuple[Repository, ...]
    source: Source
    capture: CaptureOptions = field(default_factory=lambda: CaptureOptions(patience=5, method="wal"))
    options: BackupOptions = QUICK

    @property
    def primary(self) -> Repository:
        """Where backups go first."""
        return self.places[0]

    async def take(self) -> BackupResult:
        """An incremental backup, or the full one that begins a chain."""
        return await incremental_backup(self.source, Selection(), self.places, self.capture, self.options)

    async def full(self) -> Manifest:
        """A full backup."""
        return await self.primary.manifest((await full_backup(self.source, Selection(), self.places, self.options)).id)

    async def begin(self) -> Manifest:
        """The full backup that a chain begins with."""
        result = await self.take()
        assert result.kind == "full"
        return await self.primary.manifest(result.id)

    async def window(self) -> Increment:
        """An incremental backup that continues the chain."""
        result = await self.take()
        assert result.kind == "incremental", result.warnings
        window = await self.primary.incremental(result.id)
        assert isinstance(window, Increment)
        return window

    async def change(self, *statements: str) -> Increment:
        """Do something, each statement in a transaction of its own, and take the window that holds it."""
        async with self.database.connect() as connection:
            for statement in statements:
                await connection.execute(statement)
        return await self.window()

    async def compare(self, *statements: str) -> Difference:
        """Do something, each statement in a transaction of its own, and take the difference that it makes."""
        async with self.database.connect() as connection:
            for statement in statements:
                await connection.execute(statement)
        result = await self.take()
        assert result.kind == "incremental", result.warnings
        assert result.state == "success"
        difference = await self.primary.incremental(result.id)
        assert isinstance(difference, Difference)
        return difference

    async def now(self) -> datetime:
        """What the database's clock says."""
        moment: datetime = await self.database.value("SELECT clock_timestamp()")
        return moment

    async def lines(self) -> Lines:
        """What is in the database."""
        return await lines_of(self.database)

    async def backed_up(self, point: Point | None = None, wanted: str = "latest") -> Lines:
        """What a backup, or a moment, brings back."""
        async with opened(self.places, wanted, point) as made:
            found: Lines = {}
            for table in made.manifest.tables:
                text = [await read_part(made.repositories[0], part, b"".join) for part in table.parts]
                found[f"{table.schema_name}.{table.name}"] = sorted(b"".join(text).splitlines())
            return found

    async def require_latest(self) -> None:
        """The newest backup must be what is in the database."""
        assert await self.backed_up() == await self.lines()


def following(database: Database, *places: Repository, window_bytes: int | None = None) -> Follower:
    """Follow a database as its superuser, into memory unless places are given."""
    follower = Follower(database, places or (memory(),), Source(database.dsn))
    if window_bytes is None:
        return follower
    return replace(follower, capture=replace(follower.capture, window_bytes=window_bytes))


def comparing(database: Database, *places: Repository) -> Follower:
    """Follow a database by comparing, as if its changes could not be captured."""
    return replace(following(database, *places), capture=CaptureOptions(method="xmin"))


async def lines_of(database: Database) -> Lines:
    """Every row of every table in `public`."""
    async with database.connect() as connection:
        await connection.execute(EXACT_OUTPUT)
        names = await connection.fetch(_TABLES)
        found: Lines = {}
        for schema, name in names:
            text = bytearray()

            async def take(data: bytes, into: bytearray = text) -> None:
                into.extend(data)

            await connection.copy_from_table(name, schema_name=schema, output=take)
            found[f"{schema}.{name}"] = sorted(bytes(text).splitlines())
        return found
