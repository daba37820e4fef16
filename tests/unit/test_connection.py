"""A database's address: what of it may be shown, and what a session is like."""

from pathlib import Path
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs.postgres.connection import Source, connect, session
from jobs.postgres.errors import Rejected, Unreachable
from jobs.postgres.tools import tool_environment
from tests.programs import free_port
from tests.servers import Database

SECRET = "p:a/s@s%"
ENCODED = "p%3Aa%2Fs%40s%25"


@pytest.mark.parametrize(
    ("dsn", "where"),
    [
        ("postgresql://u:p@db.example:6543/app", "db.example:6543/app"),
        ("postgresql://u:p@db.example/app%2Fone", "db.example:5432/app/one"),
        ("postgres://u@[::1]:5433/app", "[::1]:5433/app"),
        ("postgres://u@[::1]/app", "[::1]:5432/app"),
        ("postgresql://u:p@/app?host=/var/run/postgresql&port=5433", "/var/run/postgresql:5433/app"),
        ("postgresql://u:p@one:1,two:2/app", "one:1,two:2/app"),
        ("postgresql://", "localhost:5432/postgres"),
        ("postgresql://u:12/34@h/app", "the database"),
        ("postgresql://u:[p@h/app", "the database"),
    ],
)
def test_messages_name_host_port_and_database(dsn: str, where: str) -> None:
    assert Source(dsn).where == where


@pytest.mark.parametrize(
    "dsn",
    [
        f"postgresql://u:{ENCODED}@h/d",
        f"postgresql://h/d?user=u&password={ENCODED}",
        f"postgresql://u:{ENCODED}@h:1/d?sslmode=require",
    ],
)
def test_the_password_is_found_and_shown_nowhere(dsn: str) -> None:
    source = Source(dsn)
    assert source.password == SECRET
    for text in (repr(source), str(source), source.where, source.dsn_without_password):
        assert SECRET not in text
        assert ENCODED not in text


@pytest.mark.parametrize(
    ("dsn", "shown"),
    [
        ("postgresql://u:p@h:1/d", "postgresql://u@h:1/d?…"),
        ("postgresql://u%3A:p@h/d", "postgresql://u%3A@h/d?…"),
        ("postgresql://h/d?user=u&password=p&sslmode=require", "postgresql://h/d?…&user=u&sslmode=require"),
        ("postgresql://u:p@h/d?options=-c%20geqo%3Doff", "postgresql://u@h/d?…&options=-c%20geqo%3Doff"),
        ("postgresql://u:p@h/d?application_name=a+b", "postgresql://u@h/d?…&application_name=a+b"),
        ("postgresql://u:p@/d?host=%2Frun", "postgresql://u@/d?…&host=%2Frun"),
        ("postgresql://u:p@one:1,two:2/d", "postgresql://u@one:1,two:2/d?…"),
        ("postgresql://u:p@h/d?keepalives_idle=5", "postgresql://u@h/d?…&keepalives_idle=5"),
    ],
)
def test_child_processes_get_the_same_address_without_the_password_and_notice_a_silent_server(
    dsn: str, shown: str
) -> None:
    """libpq takes the last of several values."""
    noticing = "keepalives_idle=30&keepalives_interval=10&keepalives_count=3"
    assert Source(dsn).dsn_without_password == shown.replace("…", noticing)


@given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0\n\r"), min_size=1))
def test_any_password_reaches_child_processes_by_a_file_only_we_can_read(password: str) -> None:
    with tool_environment(Source(f"postgresql://u:{quote(password, safe='')}@h/d")) as environment:
        file = Path(environment["PGPASSFILE"])
        assert file.stat().st_mode & 0o077 == 0
        line = file.read_text(encoding="utf-8")
        assert "PGPASSWORD" not in environment
    assert line == "*:*:*:*:" + password.replace("\\", "\\\\").replace(":", "\\:") + "\n"
    assert not file.exists()


async def test_a_session_sees_everything_and_says_it_exactly(database: Database) -> None:
    await database.execute(
        f"""
        ALTER DATABASE "{database.name}" SET extra_float_digits = 0;
        ALTER DATABASE "{database.name}" SET DateStyle = 'SQL, DMY';
        ALTER DATABASE "{database.name}" SET IntervalStyle = 'sql_standard';
        ALTER DATABASE "{database.name}" SET bytea_output = 'escape';
        ALTER DATABASE "{database.name}" SET TimeZone = 'Asia/Kathmandu';
        ALTER DATABASE "{database.name}" SET statement_timeout = '1s';
        ALTER DATABASE "{database.name}" SET idle_in_transaction_session_timeout = '1s';
        ALTER DATABASE "{database.name}" SET transaction_timeout = '1s';
        ALTER DATABASE "{database.name}" SET idle_session_timeout = '1s';
        """
    )
    async with session(Source(database.dsn), "test") as connection:
        names = [
            *("row_security", "statement_timeout", "idle_in_transaction_session_timeout", "transaction_timeout"),
            "idle_session_timeout",
            *("search_path", "extra_float_digits", "DateStyle", "IntervalStyle", "bytea_output", "TimeZone"),
            *("client_encoding", "application_name"),
        ]
        found = {name: await connection.fetchval("SELECT current_setting($1)", name) for name in names}
    assert found == {
        "row_security": "off",
        "statement_timeout": "0",
        "idle_in_transaction_session_timeout": "0",
        "transaction_timeout": "0",
        "idle_session_timeout": "0",
        "search_path": '""',
        "extra_float_digits": "3",
        "DateStyle": "ISO, YMD",
        "IntervalStyle": "postgres",
        "bytea_output": "hex",
        "TimeZone": "UTC",
        "client_encoding": "UTF8",
        "application_name": "rowvault: test",
    }


async def test_a_wrong_password_is_rejected_and_not_shown(database: Database) -> None:
    with pytest.raises(Rejected, match="refused the login") as caught:
        await connect(Source(database.as_role("postgres", "not-the-password")), "test")
    assert "not-the-password" not in f"{caught.value.message} {caught.value.hint}"


async def test_a_missing_database_is_rejected_by_name(database: Database) -> None:
    with pytest.raises(Rejected, match="no_such_database"):
        await connect(Source(database.dsn.replace(database.name, "no_such_database")), "test")


async def test_where_nobody_listens_it_is_unreachable() -> None:
    port = free_port()
    with pytest.raises(Unreachable, match=f"127.0.0.1:{port}"):
        await connect(Source(f"postgresql://u:p@127.0.0.1:{port}/d"), "test")


@pytest.mark.parametrize(
    "dsn",
    ["host=h password=hidden", "mysql://u:hidden@h/d", "postgresql://u:hidden@h:port/d", "postgresql://u:[hidden@h/d"],
)
async def test_what_is_no_connection_string_is_rejected_without_repeating_it(dsn: str) -> None:
    with pytest.raises(Rejected) as caught:
        await connect(Source(dsn), "test")
    assert "hidden" not in f"{caught.value.message} {caught.value.hint}"
