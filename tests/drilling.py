"""Drilling in tests: an agency with roles of its own, drills on a server that was given, and what they leave there."""

from dataclasses import replace

from jobs.drill import DrillOptions, drill
from jobs.postgres.connection import Source
from jobs.progress import OnProgress, no_progress
from jobs.results import DrillResult
from storage.objects import put
from tests.places import contents
from tests.round_trip import Taken, back_up, memory
from tests.servers import Server

AGENCY = """
    CREATE ROLE "drill owner"; CREATE ROLE "drill app";
    CREATE TABLE agents (id int PRIMARY KEY, name text, mood varchar(9) CHECK (mood IN ('well', 'ill')));
    CREATE TABLE visits (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, agent int REFERENCES agents, note text);
    INSERT INTO agents SELECT n, 'agent ' || n, 'well' FROM generate_series(1, 50) n;
    INSERT INTO visits (agent, note) SELECT 1 + n % 50, md5(n::text) FROM generate_series(1, 2000) n;
    ALTER TABLE agents ENABLE ROW LEVEL SECURITY;
    CREATE POLICY own ON agents TO "drill app" USING (name = current_user AND mood IN ('well', 'ill'));
    CREATE POLICY mine ON agents TO "drill app" USING (id = 1);
    CREATE POLICY ours ON agents USING (id = 2);
    CREATE FUNCTION stamped() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN new; END';
    CREATE TRIGGER stamp BEFORE INSERT ON visits FOR EACH ROW EXECUTE FUNCTION stamped();
    ALTER TABLE visits OWNER TO "drill owner";
    GRANT SELECT ON agents, visits TO "drill app";
    CREATE TABLE elsewhere (id int PRIMARY KEY);
    CREATE TABLE orders (id int PRIMARY KEY, place int CONSTRAINT leads_out REFERENCES elsewhere);
    INSERT INTO elsewhere VALUES (1); INSERT INTO orders VALUES (1, 1);
    ALTER TABLE orders OWNER TO "drill owner";
"""
ROLES = ("drill owner", "drill app")
TABLES = ("agents", "visits", "orders")
LOADED, CHECKED, PROVED = (
    "building indexes and constraints",
    "checking what was restored",
    "proving the scratch database",
)
"""Phases of a drill, as its progress calls them."""


async def agency_backup(server: Server) -> Taken:
    """A backup of an agency that was on a server for a moment, together with its roles."""
    database = await server.create()
    try:
        await database.execute(AGENCY)
        return await back_up(database, TABLES)
    finally:
        await server.drop(database)
        for role in ROLES:
            await server.maintenance.execute(f'DROP ROLE "{role}"')


async def copied(taken: Taken) -> Taken:
    """The same backup in a place of its own."""
    place = memory()
    for name, data in (await contents(taken.repository.backend)).items():
        await put(place.backend, name, data)
    return replace(taken, repository=place)


async def held_on(
    server: Server, taken: Taken, on_progress: OnProgress = no_progress, **options: object
) -> DrillResult:
    """A drill on a server that was given."""
    how = replace(DrillOptions(given=Source(server.maintenance.dsn)), **options)  # type: ignore[arg-type]
    return await drill([taken.repository], how, on_progress)


async def scratch_databases(server: Server) -> list[str]:
    """The databases of drills that are there."""
    rows = await server.maintenance.fetch("SELECT datname FROM pg_database WHERE datname LIKE 'rowvault_drill_%'")
    return [name for (name,) in rows]


async def roles_of_drills(server: Server) -> list[str]:
    """Those of the agency's roles that are there."""
    rows = await server.maintenance.fetch("SELECT rolname FROM pg_roles WHERE rolname = ANY ($1)", list(ROLES))
    return [name for (name,) in rows]


def failures(result: DrillResult) -> dict[str, str]:
    """What was found wrong, by check."""
    return {check.name: check.message for check in result.failures}
