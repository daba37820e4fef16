"""Settings of the database and of roles in it (ALTER DATABASE … SET, ALTER ROLE … IN DATABASE … SET), as SQL."""

from jobs.postgres.connection import Connection
from jobs.postgres.errors import translated

# pg_dumpall --roles-only writes the settings that roles have everywhere, but not these.
# Settings that are lists (GUC_LIST_QUOTE) are kept as their elements, as pg_dump does: https://www.postgresql.org/docs/current/catalog-pg-db-role-setting.html
_SETTINGS = """
    SELECT pg_catalog.format(
               'ALTER %s SET %I TO %s;',
               CASE WHEN s.setrole = 0 THEN pg_catalog.format('DATABASE %I', d.datname)
                    ELSE pg_catalog.format('ROLE %I IN DATABASE %I', r.rolname, d.datname) END,
               pg_catalog.split_part(c.setting, '=', 1),
               CASE WHEN pg_catalog.split_part(c.setting, '=', 1) IN (
                        'search_path', 'temp_tablespaces', 'session_preload_libraries', 'shared_preload_libraries',
                        'local_preload_libraries', 'unix_socket_directories')
                    THEN CASE c.value WHEN '' THEN '''''' ELSE c.value END
                    ELSE pg_catalog.quote_literal(c.value) END) AS statement
      FROM pg_catalog.pg_db_role_setting s
      JOIN pg_catalog.pg_database d ON d.oid = s.setdatabase
      LEFT JOIN pg_catalog.pg_roles r ON r.oid = s.setrole,
           LATERAL (SELECT u.setting, pg_catalog.substr(u.setting, pg_catalog.strpos(u.setting, '=') + 1) AS value
                      FROM pg_catalog.unnest(s.setconfig) AS u (setting)) AS c
     WHERE d.datname = pg_catalog.current_database() ORDER BY 1
"""


async def read_role_settings(connection: Connection) -> str:
    """SQL that sets them again, a statement a line; a comment alone if there are none."""
    with translated("reading the settings of the database and its roles"):
        rows = await connection.fetch(_SETTINGS)
    return "\n".join(["", "-- Settings of the database", *(row["statement"] for row in rows), ""])
