"""The source's side of change capture: a publication and a logical replication slot of Rowvault's own.

A publication is made first, then the slot, then everybody who was at work is waited for: only what begins afterwards is
sure to be in the log. https://www.postgresql.org/docs/current/logicaldecoding-explanation.html
"""

import asyncio
import secrets
from collections.abc import Sequence
from dataclasses import dataclass

import asyncpg

from jobs.postgres.catalogue import OWN_SCHEMA
from jobs.postgres.connection import Connection
from jobs.postgres.errors import CannotCapture, Contended, translated
from jobs.postgres.identifiers import TableName, qualified
from jobs.postgres.lineage import make_own_schema
from jobs.postgres.pgoutput import lsn_number, lsn_text
from jobs.postgres.table_logs import TableLog

PUBLICATION = "rowvault"
_SLOTS = "rowvault_"
_POLL_SECONDS = 0.2


@dataclass(frozen=True, slots=True)
class Capture:
    """Capture at work: the slot, the publication's oid, the tables in it, and from where on the log is complete."""

    slot: str
    publication: int
    tables: frozenset[int]
    since: int


@dataclass(frozen=True, slots=True)
class Slot:
    """What the server says of a slot: where a reader goes on, whether WAL it needs is gone, bytes of WAL it holds."""

    name: str
    confirmed: int
    lost: bool
    active_pid: int | None
    lag_bytes: int
    safe_bytes: int | None


async def read_capture(connection: Connection) -> Capture | None:
    """The capture that was set up and settled, if its publication is still the one it was set up with."""
    with translated("reading how changes are captured"):
        try:
            row = await connection.fetchrow(
                f"SELECT slot, publication::bigint, tables::bigint[], since::text FROM {OWN_SCHEMA}.capture"
            )
        except (asyncpg.UndefinedTableError, asyncpg.InsufficientPrivilegeError):
            return None
        if row is None:
            return None
        published = await _published(connection)
    if published != (row["publication"], frozenset(row["tables"])):
        return None
    return Capture(row["slot"], row["publication"], frozenset(row["tables"]), lsn_number(row["since"]))


async def _published(connection: Connection) -> tuple[int, frozenset[int]] | None:
    """The publication's oid and the tables in it; None if there is none, or it leaves something out."""
    row = await connection.fetchrow(
        """
        SELECT p.oid::bigint, ARRAY(SELECT r.prrelid::bigint FROM pg_catalog.pg_publication_rel r
                                     WHERE r.prpubid = p.oid) AS tables
          FROM pg_catalog.pg_publication p
         WHERE p.pubname = $1 AND p.pubinsert AND p.pubupdate AND p.pubdelete AND p.pubtruncate AND NOT p.pubviaroot
        """,
        PUBLICATION,
    )
    return (row["oid"], frozenset(row["tables"])) if row else None


async def read_slot(connection: Connection, name: str) -> Slot | None:
    """What the server says of a slot of this database; None if it is not there."""
    return next((slot for slot in await own_slots(connection) if slot.name == name), None)


async def own_slots(connection: Connection) -> list[Slot]:
    """Every slot of Rowvault's own in this database."""
    with translated("looking at the replication slot"):
        rows = await connection.fetch(
            """
            SELECT slot_name, confirmed_flush_lsn::text AS confirmed, COALESCE(wal_status = 'lost', false) AS lost,
                   active_pid, safe_wal_size, pg_catalog.pg_wal_lsn_diff(
                       CASE WHEN pg_catalog.pg_is_in_recovery() THEN pg_catalog.pg_last_wal_replay_lsn()
                            ELSE pg_catalog.pg_current_wal_lsn() END, restart_lsn)::bigint AS lag
              FROM pg_catalog.pg_replication_slots
             WHERE slot_name ~ ('^' || $1 || '[0-9a-f]{8}$') AND database = pg_catalog.current_database()
               AND plugin = 'pgoutput'
            """,
            _SLOTS,
        )
    return [
        Slot(
            row["slot_name"],
            lsn_number(row["confirmed"]) if row["confirmed"] else 0,
            row["lost"] or row["confirmed"] is None,
            row["active_pid"],
            row["lag"] or 0,
            row["safe_wal_size"],
        )
        for row in rows
    ]


async def published_tables(connection: Connection) -> frozenset[int]:
    """The oids of the tables in Rowvault's publication, whatever became of it."""
    with translated("looking at the publication"):
        rows = await connection.fetch(
            "SELECT r.prrelid::bigint AS oid FROM pg_catalog.pg_publication_rel r"
            " JOIN pg_catalog.pg_publication p ON p.oid = r.prpubid WHERE p.pubname = $1",
            PUBLICATION,
        )
    return frozenset(row["oid"] for row in rows)


async def withdraw(connection: Connection, tables: Sequence[TableName]) -> None:
    """Take tables out of the publication, at once: without a key the application's own updates of them fail."""
    if tables:
        named = ", ".join(f"ONLY {qualified(table)}" for table in tables)
        with translated("taking tables out of the publication"):
            await connection.execute("SET lock_timeout = '5s'")
            await connection.execute(f"ALTER PUBLICATION {PUBLICATION} DROP TABLE {named}")


async def set_up(connection: Connection, tables: Sequence[TableLog], patience: float) -> Capture:
    """Begin to capture the changes of these tables, anew; what was set up before is taken away.

    Raises `CannotCapture`; `Contended` if transactions that were at work did not end within `patience` seconds.
    """
    await take_down(connection)
    names = [one.table for one in tables if one.identity]
    with translated("making the publication"):
        try:
            await connection.execute(f"SET lock_timeout = {round(patience * 1000)}")
            await _publish(connection, names)
        except asyncpg.InsufficientPrivilegeError as error:
            raise CannotCapture(
                f"the publication cannot be made: {error}",
                "only a table's owner may publish it: GRANT its owner to the role, or back up as the owner",
            ) from error
        finally:
            await connection.execute("SET lock_timeout = 0")
    slot = f"{_SLOTS}{secrets.token_hex(4)}"
    try:
        since = await _make_slot(connection, slot, patience)
        await _settle(connection, patience)
        return await _remember(connection, slot, since)
    except BaseException:
        # A publication that nobody reads is a danger still: a table in it that loses its key takes no more updates.
        await asyncio.shield(take_down(connection))
        raise


async def _publish(connection: Connection, tables: Sequence[TableName]) -> None:
    named = f"FOR TABLE {', '.join(f'ONLY {qualified(table)}' for table in tables)}" if tables else ""
    await connection.execute(f"CREATE PUBLICATION {PUBLICATION} {named}")


async def _make_slot(connection: Connection, slot: str, patience: float) -> int:
    """Make the slot; return from where on it decodes. The server waits for whoever is at work."""
    await connection.execute(f"SET statement_timeout = {round(patience * 1000)}")
    with translated("making the replication slot"):
        try:
            lsn: str = await connection.fetchval(
                "SELECT lsn::text FROM pg_catalog.pg_create_logical_replication_slot($1, 'pgoutput')", slot
            )
        except asyncpg.QueryCanceledError as error:
            raise await _somebody_is_at_work(connection, patience) from error
        except asyncpg.ConfigurationLimitExceededError as error:
            hint = "drop a slot that nobody reads, or raise max_replication_slots and restart the server"
            raise CannotCapture("no replication slot is free", hint) from error
        finally:
            await connection.execute("SET statement_timeout = 0")
    return lsn_number(lsn)


async def _settle(connection: Connection, patience: float) -> None:
    """Wait until everybody who was at work when the slot was there has ended: the log may lack what they did."""
    newest = await connection.fetchval(
        "SELECT pg_catalog.pg_snapshot_xmax(pg_catalog.pg_current_snapshot())::text::bigint"
    )
    try:
        async with asyncio.timeout(patience):
            while True:
                if await _oldest(connection) >= newest:
                    return
                await asyncio.sleep(_POLL_SECONDS)
    except TimeoutError as error:
        raise await _somebody_is_at_work(connection, patience) from error


async def _oldest(connection: Connection) -> int:
    oldest: int = await connection.fetchval(
        "SELECT pg_catalog.pg_snapshot_xmin(pg_catalog.pg_current_snapshot())::text::bigint"
    )
    return oldest


async def _somebody_is_at_work(connection: Connection, patience: float) -> Contended:
    pid = await connection.fetchval(
        """
        SELECT 'server pid ' || pid FROM pg_catalog.pg_stat_activity
         WHERE backend_xid IS NOT NULL AND pid <> pg_catalog.pg_backend_pid()
         UNION ALL SELECT 'the prepared transaction ' || gid FROM pg_catalog.pg_prepared_xacts LIMIT 1
        """
    )
    return Contended(
        f"capturing changes waited {patience:g} s for transactions that were at work: {pid or 'they ended just now'}",
        "let it end, and try again; until then there are full backups",
    )


async def _remember(connection: Connection, slot: str, since: int) -> Capture:
    """Write down, in Rowvault's own schema, what is complete now."""
    published = await _published(connection)
    if published is None:
        raise Contended("the publication was dropped while it was being set up", "run it again")
    with translated("writing down how changes are captured"):
        async with connection.transaction():
            await make_own_schema(connection)
            await connection.execute(
                f"CREATE TABLE IF NOT EXISTS {OWN_SCHEMA}.capture"
                " (slot text PRIMARY KEY, publication oid NOT NULL, tables oid[] NOT NULL, since pg_lsn NOT NULL)"
            )
            await connection.execute(
                f"INSERT INTO {OWN_SCHEMA}.capture VALUES ($1, $2::bigint::oid, $3::bigint[]::oid[], $4::text::pg_lsn)",
                slot,
                published[0],
                sorted(published[1]),
                lsn_text(since),
            )
    return Capture(slot, *published, since)


async def take_down(connection: Connection) -> None:
    """Remove slot and publication, and what was written down of them."""
    with translated("removing the replication slot"):
        for slot in await own_slots(connection):
            await connection.execute("SELECT pg_catalog.pg_drop_replication_slot($1)", slot.name)
    with translated("removing the publication"):
        await connection.execute(f"DROP PUBLICATION IF EXISTS {PUBLICATION}")
        if await connection.fetchval(f"SELECT pg_catalog.to_regclass('{OWN_SCHEMA}.capture') IS NOT NULL"):
            await connection.execute(f"DELETE FROM {OWN_SCHEMA}.capture")
