"""Looks after capture between jobs: the application must never suffer from a slot or publication of Rowvault's own."""

from dataclasses import dataclass

from jobs.postgres.capture import own_slots, published_tables, take_down, withdraw
from jobs.postgres.connection import Source, session
from jobs.postgres.table_logs import read_table_logs


@dataclass(frozen=True, slots=True)
class CaptureWatch:
    """What was seen, and done. `lag_bytes`: WAL that the slot holds back, None without a slot; `urgent`: half of what
    the server lets it hold back is used. `dropped` says why capture was ended, `withdrawn` which tables were taken out.
    """

    lag_bytes: int | None
    urgent: bool = False
    dropped: str = ""
    withdrawn: tuple[str, ...] = ()


async def watch_capture(source: Source, lag_limit: int) -> CaptureWatch:
    """Drop a slot that holds back too much or is lost; take out tables whose updates would fail, or be lost.

    What is taken away makes the next incremental backup begin a new chain. Raises `PostgresError`.
    """
    async with session(source, "capture watch") as connection:
        slots = await own_slots(connection)
        lag = max((slot.lag_bytes for slot in slots), default=None)
        lost = any(slot.lost for slot in slots)
        if lag is not None and (lag > lag_limit or lost):
            if any(slot.active_pid for slot in slots):  # a job reads it just now, which makes the lag less
                return CaptureWatch(lag, urgent=True)
            await take_down(connection)
            why = f"held back {lag} bytes of WAL, {lag_limit} is the limit" if lag > lag_limit else "lost WAL it needs"
            return CaptureWatch(None, dropped=f"the replication slot {why}: it was dropped")
        # Without a slot too: whoever dropped it may have left the publication.
        tables = await read_table_logs(connection, await published_tables(connection))
        unfit = [log for log in tables.values() if not log.identity]
        await withdraw(connection, [log.table for log in unfit])
        urgent = any(slot.safe_bytes is not None and slot.lag_bytes > slot.safe_bytes for slot in slots)
        return CaptureWatch(lag, urgent, withdrawn=tuple(f"{log.table}: {log.reason}" for log in unfit))
