"""`make bench`: full backups against pg_dump and raw COPY of the same server, interleaved, medians, as ratios.

    python -m tests.benchmarks [--scale 1.0] [--runs 5]

Scale 1 is about 1.6 GB of COPY text. Figures in seconds depend on the machine, so only ratios are held against the
targets; a ratio over its target is marked, and nothing fails.
"""

import argparse
import asyncio
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median

import boto3

from jobs.postgres.embedded import find_servers
from storage.backends.factory import open_local, open_s3
from storage.backends.retrying import Patience
from storage.backends.s3_options import S3Options
from tests.benchmarks.changing import as_of_now, changed_rows, rowvault_incremental
from tests.benchmarks.contenders import bare_upload, has_zstd, pg_dump, rowvault_backup, two_drains
from tests.benchmarks.data import many_tables, mixed
from tests.benchmarks.encrypting import encrypted_backups
from tests.benchmarks.erasing import erasures
from tests.benchmarks.exporting import TABLE, exports
from tests.benchmarks.many_backups import Took, fill, timed
from tests.benchmarks.restoring import restores
from tests.seaweed import S3Server, start_seaweed
from tests.servers import Database, Server, own_server

SETTINGS = {"shared_buffers": "512MB", "max_wal_size": "4GB", "maintenance_work_mem": "256MB"}
BUCKET = "bench"
BACKUPS = 12
THOUSAND_TRANSACTIONS = """
    DO $$ BEGIN FOR n IN 0..999 LOOP
        UPDATE events SET ok = NOT ok WHERE id > n * 1000 AND id <= (n + 1) * 1000; COMMIT;
    END LOOP; END $$
"""


def say(text: str) -> None:
    """A line of the report."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def target(what: str, figure: float, limit: float) -> None:
    """One figure held against its target."""
    say(f"  {what:<58} {figure:8.2f}   target {limit:g}   {'ok' if figure <= limit else 'OVER'}")


async def local_full(database: Database, runs: int, folder: Path) -> tuple[float, float]:
    """Time and size against pg_dump and two drains; returns the median commit time and the peak memory."""
    binaries = database.server.binaries
    zstd = has_zstd(binaries / "pg_dump")
    backups, gzips, zstds, drains = [], [], [], []
    for _ in range(runs):
        with fresh(folder / "local") as place:
            backups.append(rowvault_backup(local(database, place), folder))
        drains.append(await two_drains(binaries / "psql", database))
        gzips.append(pg_dump(binaries / "pg_dump", database, "-Z1", folder))
        if zstd:
            zstds.append(pg_dump(binaries / "pg_dump", database, "--compress=zstd:1", folder))
    commit, drain = median(one.commit for one in backups), median(drains)
    gzip, gzip_bytes = median(seconds for seconds, _ in gzips), gzips[0][1]
    peak = max(one.peak_mb for one in backups)
    say(f"full backup, local, {backups[0].raw / 1e9:.2f} GB of COPY text, medians of {runs} interleaved runs")
    verify = median(one.verify for one in backups)
    say(f"  rowvault: {commit:.2f} s to commit, {verify:.2f} s to verify, {backups[0].stored / 1e6:.0f} MB")
    say(f"  pg_dump -Fd -j2 -Z1: {gzip:.2f} s, {gzip_bytes / 1e6:.0f} MB · two raw COPY drains: {drain:.2f} s")
    target("time to commit / pg_dump -Z1", commit / gzip, 0.75)
    if zstd:
        target("time to commit / pg_dump zstd:1", commit / median(seconds for seconds, _ in zstds), 1.15)
    else:
        say("  (no pg_dump with zstd at hand)")
    target("stored bytes / pg_dump -Z1", backups[0].stored / gzip_bytes, 0.85)
    target("time to commit / two raw COPY drains", commit / drain, 1.6)
    target("peak memory, MB, local", peak, 100)
    return commit, peak


async def with_s3(database: Database, runs: int, folder: Path, store: S3Server) -> None:
    """Both places against local alone and a bare upload of the same bytes."""
    locals_, boths, bares = [], [], []
    for run in range(runs):
        with fresh(folder / "local") as place:
            locals_.append(rowvault_backup(local(database, place), folder))
            bares.append(await asyncio.to_thread(bare_upload, place, client(store), BUCKET))
        with fresh(folder / "both") as place:
            settings = local(database, place) | s3(store, f"run{run}")
            boths.append(rowvault_backup(settings, folder))
    alone, both, bare = (median(v) for v in ([o.commit for o in locals_], [o.commit for o in boths], bares))
    say(f"local and S3 together, medians of {runs} interleaved runs")
    say(f"  local alone {alone:.2f} s · together {both:.2f} s · bare upload {bare:.2f} s")
    target("together / (local alone + 1.1 bare upload)", both / (alone + 1.1 * bare), 1.0)
    target("peak memory, MB, local and S3", max(one.peak_mb for one in boths), 170)
    alone_s3 = rowvault_backup(s3(store, "alone") | {"ROWVAULT_DATABASE_URL": database.dsn}, folder)
    say(f"  S3 alone, streamed: {alone_s3.commit:.2f} s")
    target("peak memory, MB, S3 alone", alone_s3.peak_mb, 170)


async def small_tables(server: Server, runs: int, folder: Path) -> None:
    """A thousand small tables against pg_dump."""
    database = await server.create("many")
    for statement in many_tables(1000):
        await database.execute(statement)
    ours, theirs = [], []
    with fresh(folder / "kept") as kept:  # files that were just removed make ext4 slow in making others
        for run in range(runs):
            place = kept / f"{run}"
            place.mkdir()
            ours.append(rowvault_backup(local(database, place), folder).commit)
            theirs.append(pg_dump(server.binaries / "pg_dump", database, "-Z1", place)[0])
    say(f"1,000 small tables: rowvault {median(ours):.2f} s, pg_dump {median(theirs):.2f} s")
    target("1,000 small tables / pg_dump -Z1", median(ours) / median(theirs), 1.5)


async def encrypting(database: Database, runs: int, folder: Path) -> None:
    """Encryption against none."""

    @contextmanager
    def place() -> Iterator[dict[str, str]]:
        with fresh(folder / "local") as empty:
            yield local(database, empty)

    taken = await asyncio.to_thread(encrypted_backups, place, runs, folder)
    commits = [median(one.commit for one in kind) for kind in (taken.plain, taken.sealed, taken.opened)]
    wholes = [median(one.commit + one.verify for one in kind) for kind in (taken.plain, taken.sealed, taken.opened)]
    cpu = [median(one.cpu for one in kind) for kind in (taken.plain, taken.sealed, taken.opened)]
    say(
        f"encrypted backups, medians of {runs} interleaved runs: plain, for a public key, with its identity at hand too"
    )
    for what, seconds in (("to commit", commits), ("with verification", wholes), ("of processor time", cpu)):
        say(f"  {what}: " + " · ".join(f"{one:.2f} s" for one in seconds))
    target("encrypted / plain, to commit", commits[1] / commits[0], 1.15)
    target("encrypted / plain, with verification by an identity", wholes[2] / wholes[0], 1.15)
    target("peak memory, MB, encrypted", max(one.peak_mb for one in (*taken.sealed, *taken.opened)), 100)


async def bringing_back(database: Database, runs: int, folder: Path) -> None:
    """Restores against pg_restore."""
    with fresh(folder / "local") as place:
        figures = await restores(database, local(database, place), runs, folder)
    whole, row = figures.everything, figures.row
    say(f"restore into an empty database, medians of {runs} interleaved runs")
    say(
        f"  rowvault: {whole.seconds:.2f} s, then {whole.check:.2f} s to read everything back and check it"
        f" ({whole.whole:.2f} s with verification before) · pg_restore -j2: {figures.pg_restore:.2f} s"
    )
    target("restore / pg_restore -j2", whole.seconds / figures.pg_restore, 0.95)
    target("peak memory, MB, restore", whole.peak_mb, 150)
    say(f"one row out of {figures.rows:,} back in its table: {row.whole:.2f} s for the whole command")
    target("one row / pg_restore -t into a scratch database", row.whole / figures.pg_restore_table, 1 / 6)
    target("peak memory, MB, one row", row.peak_mb, 150)


def handing_on(database: Database, runs: int, folder: Path) -> None:
    """Exports against what reads a live server."""
    with fresh(folder / "local") as place:
        figures = exports(database, local(database, place), runs, folder)
    csv, parquet = figures.csv, figures.parquet
    say(f"export of {TABLE}, whole commands, medians of {runs} interleaved runs")
    say(f"  CSV {csv.whole:.2f} s, {csv.bytes / csv.seconds / 1e6:.0f} MB/s · psql, COPY as CSV {figures.psql:.2f} s")
    say(f"  Parquet {parquet.whole:.2f} s, {parquet.bytes / 1e6:.0f} MB · into pandas {figures.pandas:.2f} s")
    target("CSV / psql's COPY as CSV", csv.whole / figures.psql, 2.0)
    target("Parquet / into pandas", parquet.whole / figures.pandas, 1.0)
    target("peak memory, MB, CSV", csv.peak_mb, 150)
    target("peak memory, MB, Parquet", parquet.peak_mb, 350)


async def erasing(server: Server, scale: float, folder: Path) -> None:
    """The right to erasure against reading all backups once."""
    database = await server.create()
    await database.execute(mixed(scale))
    with fresh(folder / "local") as place:
        figures = await erasures(database, local(database, place), BACKUPS, folder)
    say(f"erasing out of {BACKUPS} backups of {figures.raw / BACKUPS / 1e9:.2f} GB: to verify all {figures.read:.2f} s")
    for table, seconds in figures.seconds.items():
        target(f"erasing a subject of {table} / verifying all", seconds / figures.read, 1.2)
    target("peak memory, MB, erasing", figures.peak_mb, 150)
    await server.drop(database)


async def capturing_changes(server: Server, scale: float, runs: int, folder: Path) -> None:
    """Incremental backups: 20,000 changed rows at two table sizes, a backlog, one huge transaction, a moment back."""
    for size in (scale / 4, scale):
        database = await server.create()
        await database.execute(mixed(size))
        await database.execute("VACUUM ANALYZE")
        with fresh(folder / "local") as place:
            settings = local(database, place)
            rows = await database.value("SELECT count(*) FROM events")
            some = f"UPDATE events SET kind = 'changed' WHERE id % {max(1, rows // 20_000)} = 0"
            few = await changed_rows(database, settings, some, runs, folder)
            say(
                f"{few.backup.changes:,} of {rows:,} rows changed, medians of {runs} runs: incremental backup"
                f" {few.backup.commit:.2f} s, {few.backup.stored / 1e6:.2f} MB · draining with psql {few.drain:.2f} s"
            )
            target("incremental backup / (3 x drain + 1 s)", few.backup.commit / (3 * few.drain + 1), 1.0)
            target("stored by an incremental backup, MB", few.backup.stored / 1e6, 6)
            if size == scale:
                await large_changes(database, settings, rows, folder)
        await server.drop(database)


async def large_changes(database: Database, settings: dict[str, str], rows: int, folder: Path) -> None:
    """What is left of a long backlog and of one transaction of a million rows, then a moment."""
    backlog = await changed_rows(database, settings, THOUSAND_TRANSACTIONS, 1, folder)
    many = await changed_rows(database, settings, "UPDATE events SET ok = NOT ok WHERE id <= 1000000", 1, folder)
    for what, one in (("1,000 transactions", backlog), ("one transaction", many)):
        say(f"{one.backup.changes:,} rows in {what}: {one.backup.commit:.2f} s, drain with psql {one.drain:.2f} s")
        target("150,000 changes a second / reached", 150_000 / (one.backup.changes / one.backup.commit), 1.0)
    target("peak memory, MB, one transaction of 1 million rows", many.backup.peak_mb, 150)
    rowvault_backup(settings, folder)
    await database.execute(f"UPDATE events SET kind = 'moment' WHERE id % 20 = 0; DELETE FROM events WHERE id = {rows}")
    rowvault_incremental(settings, folder)
    plain, moment = await as_of_now(database, settings, folder)
    say(f"5 % changed since the full backup: plain {plain.whole:.2f} s, as of the newest moment {moment.whole:.2f} s")
    target("restore --at / restore of the full backup", moment.whole / plain.whole, 1.3)
    target("peak memory, MB, restore --at", moment.peak_mb, 150)


async def memory_by_size(server: Server, peak: float, folder: Path) -> None:
    """Peak memory does not grow with the tables: a quarter of the rows against all of them."""
    database = await server.create("quarter")
    await database.execute(mixed(0.25))
    with fresh(folder / "local") as place:
        quarter = rowvault_backup(local(database, place), folder)
    say(f"peak memory: {quarter.peak_mb:.0f} MB at {quarter.raw / 1e9:.2f} GB, {peak:.0f} MB at full scale")


async def ten_thousand(folder: Path, store: S3Server) -> None:
    """Listing and pruning 10,000 backups, each by a command of its own."""
    with fresh(folder / "many") as place:
        await fill(open_local(place))
        say_of_many("local", timed({"ROWVAULT_LOCAL_PATH": str(place)}, folder))
    options = S3Options(
        BUCKET,
        prefix="many",
        endpoint_url=store.endpoint_url,
        region="us-east-1",
        access_key_id=store.access_key,
        secret_access_key=store.secret_key,
        addressing_style="path",
    )
    backend = await open_s3(options, Patience())
    try:
        await fill(backend)
    finally:
        await backend.close()
    say_of_many("S3", timed(s3(store, "many"), folder))


def say_of_many(place: str, took: Took) -> None:
    """Both figures of one place."""
    say(f"10,000 backups, {place}: listed in {took.list:.2f} s, {took.removed} of them pruned in {took.prune:.2f} s")
    target(f"seconds to list 10,000 backups, {place}", took.list, 5)
    target(f"seconds to prune 10,000 backups, {place}", took.prune, 5)


@contextmanager
def fresh(folder: Path) -> Iterator[Path]:
    """An empty folder, removed afterwards."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


def local(database: Database, place: Path) -> dict[str, str]:
    """Settings for a local place."""
    return {"ROWVAULT_DATABASE_URL": database.dsn, "ROWVAULT_LOCAL_PATH": str(place)}


def s3(store: S3Server, prefix: str) -> dict[str, str]:
    """Settings for an S3 place."""
    return {
        "ROWVAULT_S3__BUCKET": BUCKET,
        "ROWVAULT_S3__PREFIX": prefix,
        "ROWVAULT_S3__ENDPOINT_URL": store.endpoint_url,
        "ROWVAULT_S3__REGION": "us-east-1",
        "ROWVAULT_S3__ADDRESSING_STYLE": "path",
        "ROWVAULT_S3__ACCESS_KEY_ID": store.access_key,
        "ROWVAULT_S3__SECRET_ACCESS_KEY": store.secret_key,
    }


def client(store: S3Server) -> dict[str, str]:
    """The same for boto3."""
    return {
        "endpoint_url": store.endpoint_url,
        "region_name": "us-east-1",
        "aws_access_key_id": store.access_key,
        "aws_secret_access_key": store.secret_key,
    }


async def run(scale: float, runs: int) -> None:
    """All benchmarks, one after another, on the oldest server at hand (Debian's 15 where it is installed)."""
    major = min(find_servers())
    say(f"PostgreSQL {major}, client and server on one machine")
    with tempfile.TemporaryDirectory(prefix="rowvault-bench-") as name:
        folder = Path(name)
        await asyncio.to_thread(folder.chmod, 0o755)
        async with own_server(major, **SETTINGS) as server:
            say("making the data …")
            database = await server.create("mixed")
            await database.execute(mixed(scale))
            await database.execute("VACUUM ANALYZE")
            _, peak = await local_full(database, runs, folder)
            await memory_by_size(server, peak, folder)
            await encrypting(database, runs, folder)
            await small_tables(server, runs, folder)
            await bringing_back(database, runs, folder)
            await asyncio.to_thread(handing_on, database, runs, folder)
            await erasing(server, scale / 2, folder)
            await capturing_changes(server, scale / 2, runs, folder)
            store = await asyncio.to_thread(start_seaweed, folder / "s3")
            try:
                boto3.client("s3", **client(store)).create_bucket(Bucket=BUCKET)
                await with_s3(database, runs, folder, store)
                await ten_thousand(folder, store)
            finally:
                store.kill()


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks")
    parser.add_argument("--scale", type=float, default=1.0)
    parser.add_argument("--runs", type=int, default=5)
    arguments = parser.parse_args()
    asyncio.run(run(arguments.scale, arguments.runs))


if __name__ == "__main__":
    main()
