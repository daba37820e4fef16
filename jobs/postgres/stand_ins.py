"""What a scratch database lacks of the world that a backup comes from, and what stands in for it there.

Stand-ins can do nothing: they are there so that definitions can be made, and whatever would reach outside is replaced
by one even where the real thing is at hand.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from jobs.postgres.connection import Connection
from jobs.postgres.errors import translated
from jobs.postgres.identifiers import quote
from jobs.postgres.scratch import is_superuser

# Extensions by which a database calls, or lets itself be called by, somebody else.
REACHING_OUT = frozenset({"aws_lambda", "aws_s3", "dblink", "http", "pg_cron", "pg_net", "pglogical", "plproxy"})
_STAND_IN = "stand-in"

# Functions of extensions that defaults call, with the server's own in their place.
_FUNCTIONS: Mapping[str, tuple[str, ...]] = {
    "uuid-ossp": ("uuid_generate_v1", "uuid_generate_v1mc", "uuid_generate_v4"),
    "pgcrypto": ("gen_random_uuid",),
}
_AUTH_FUNCTIONS = {"uid": "uuid", "role": "text", "email": "text", "jwt": "jsonb"}
_EMPTY_WRAPPER = "rowvault_drill_nothing"


@dataclass(frozen=True, slots=True)
class Wanted:
    """What definitions of a backup need beside themselves: extensions by name, with their schemas, and servers.

    `auth`: they mention functions of schema `auth`, which is not among them.
    """

    extensions: Mapping[str, str]
    servers: tuple[str, ...]
    auth: bool


async def put_stand_ins(connection: Connection, wanted: Wanted) -> tuple[str, ...]:
    """Put stand-ins for what cannot be had, or must not; return what therefore cannot be proved, a sentence each.

    Only a superuser can; for others what is lacking stays lacking, and the restore says so.
    """
    said: list[str] = []
    with translated("putting stand-ins into the scratch database"):
        if await is_superuser(connection):
            said += await _extensions(connection, wanted.extensions)
            said += await _servers(connection, wanted.servers)
        if wanted.auth:
            await _auth(connection)
            said.append("auth.uid(), auth.role(), auth.email() and auth.jwt() are stand-ins that return NULL")
    return tuple(said)


async def _extensions(connection: Connection, wanted: Mapping[str, str]) -> list[str]:
    rows = await connection.fetch("SELECT name FROM pg_catalog.pg_available_extensions")
    available = {row[0] for row in rows} - REACHING_OUT
    there = {row[0] for row in await connection.fetch("SELECT extname FROM pg_catalog.pg_extension")}
    said = []
    for name in sorted(wanted.keys() - available - there):
        await _extension(connection, name, wanted[name])
        why = "would reach outside" if name in REACHING_OUT else "is not installed on the scratch server"
        said.append(f"extension {name} {why}: a stand-in without its functions took its place")
    return said


# The catalogue says that it is there, so its CREATE EXTENSION is left out, and its members are not in the way.
_REGISTER = """
    INSERT INTO pg_catalog.pg_extension (oid, extname, extowner, extnamespace, extrelocatable, extversion)
    SELECT pg_catalog.pg_nextoid('pg_catalog.pg_extension', 'oid', 'pg_catalog.pg_extension_oid_index'),
           $1::name, r.oid, n.oid, false, $2
      FROM pg_catalog.pg_namespace n, pg_catalog.pg_roles r WHERE n.nspname = $3 AND r.rolname = current_user
"""


async def _extension(connection: Connection, name: str, schema: str) -> None:
    await connection.execute(f"CREATE SCHEMA IF NOT EXISTS {quote(schema)}")
    await connection.execute(_REGISTER, name, _STAND_IN, schema)
    for function in _FUNCTIONS.get(name, ()):
        called = f"{quote(schema)}.{quote(function)}()"
        await connection.execute(
            f"CREATE FUNCTION {called} RETURNS uuid LANGUAGE sql AS 'SELECT pg_catalog.gen_random_uuid()'"
        )
        await connection.execute(f"ALTER EXTENSION {quote(name)} ADD FUNCTION {called}")


async def _servers(connection: Connection, names: Sequence[str]) -> list[str]:
    there = {row[0] for row in await connection.fetch("SELECT srvname FROM pg_catalog.pg_foreign_server")}
    missing = sorted(set(names) - there)
    if missing:
        await connection.execute(f"CREATE FOREIGN DATA WRAPPER {_EMPTY_WRAPPER}")
    for name in missing:
        await connection.execute(f"CREATE SERVER {quote(name)} FOREIGN DATA WRAPPER {_EMPTY_WRAPPER}")
    return [f"foreign server {name} is a stand-in that leads nowhere" for name in missing]


async def _auth(connection: Connection) -> None:
    await connection.execute("CREATE SCHEMA IF NOT EXISTS auth")
    for name, kind in _AUTH_FUNCTIONS.items():
        await connection.execute(
            f"CREATE FUNCTION auth.{quote(name)}() RETURNS {kind} LANGUAGE sql STABLE AS 'SELECT NULL::{kind}'"
        )
    await connection.execute("GRANT USAGE ON SCHEMA auth TO PUBLIC")


async def alive(connection: Connection) -> list[str]:
    """What in this database could reach the outside world, or act by itself."""
    with translated("looking for what reaches outside"):
        rows = await connection.fetch(_ALIVE, sorted(REACHING_OUT), _STAND_IN, _EMPTY_WRAPPER)
    return [row[0] for row in rows]


_ALIVE = """
    SELECT 'subscription ' || subname FROM pg_catalog.pg_subscription s
      JOIN pg_catalog.pg_database d ON d.oid = s.subdbid WHERE d.datname = pg_catalog.current_database()
     UNION ALL SELECT 'event trigger ' || evtname FROM pg_catalog.pg_event_trigger WHERE evtenabled <> 'D'
     UNION ALL SELECT 'user mapping for server ' || srvname FROM pg_catalog.pg_user_mappings
     UNION ALL SELECT 'foreign server ' || srvname FROM pg_catalog.pg_foreign_server s
                 JOIN pg_catalog.pg_foreign_data_wrapper w ON w.oid = s.srvfdw WHERE w.fdwname <> $3
     UNION ALL SELECT 'extension ' || extname FROM pg_catalog.pg_extension
                WHERE extname = ANY ($1::text[]) AND extversion <> $2
     ORDER BY 1
"""


def versions_differ(wanted: Mapping[str, str], there: Mapping[str, str]) -> tuple[str, ...]:
    """Sentences on real extensions that are of another version than those of the backup."""
    return tuple(
        f"extension {name} is {there[name]} here and was {version}"
        for name, version in sorted(wanted.items())
        if name in there and there[name] not in {version, _STAND_IN}
    )


async def stand_ins_among(connection: Connection) -> list[str]:
    """The extensions of a database that are stand-ins."""
    return sorted(name for name, version in (await extension_versions(connection)).items() if version == _STAND_IN)


async def extension_versions(connection: Connection) -> dict[str, str]:
    """The extensions of a database, with their versions."""
    with translated("looking at extensions"):
        rows = await connection.fetch("SELECT extname, extversion FROM pg_catalog.pg_extension")
    return {row["extname"]: row["extversion"] for row in rows}


def lacks_for_good(wanted: Collection[str], *, superuser: bool) -> list[str]:
    """Extensions that would reach outside, where nobody may put a stand-in."""
    return [] if superuser else sorted(REACHING_OUT & set(wanted))
