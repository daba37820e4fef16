"""Rights on objects that were just made: as if the target had no default privileges.

pg_dump writes GRANTs from the built-in defaults on. Where a database has ALTER DEFAULT PRIVILEGES, as Supabase's have
for `anon`, a table made anew would be open to roles that the source had refused.
"""

from collections.abc import Collection

from jobs.postgres.connection import Connection
from jobs.postgres.errors import translated

_OBJECTS = """
    SELECT 'pg_class' AS catalogue, c.oid,
           CASE c.relkind WHEN 'S' THEN 's' ELSE 'r' END AS kind, c.relowner AS owner, c.relacl AS acl,
           pg_catalog.format('%s %I.%I', CASE c.relkind WHEN 'S' THEN 'SEQUENCE' ELSE 'TABLE' END, n.nspname, c.relname)
               AS object, n.nspname
      FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
     WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f', 'S')
     UNION ALL
    SELECT 'pg_proc', p.oid, 'f', p.proowner, p.proacl, pg_catalog.format('ROUTINE %s', p.oid::pg_catalog.regprocedure),
           n.nspname
      FROM pg_catalog.pg_proc p JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace
     UNION ALL
    SELECT 'pg_type', t.oid, 'T', t.typowner, t.typacl, pg_catalog.format('TYPE %s', t.oid::pg_catalog.regtype),
           n.nspname
      FROM pg_catalog.pg_type t JOIN pg_catalog.pg_namespace n ON n.oid = t.typnamespace
      LEFT JOIN pg_catalog.pg_class c ON c.oid = t.typrelid
     WHERE t.typelem = 0 AND t.typtype <> 'm' AND (t.typrelid = 0 OR c.relkind = 'c')
     UNION ALL
    SELECT 'pg_namespace', n.oid, 'n', n.nspowner, n.nspacl, pg_catalog.format('SCHEMA %I', n.nspname), n.nspname
      FROM pg_catalog.pg_namespace n
"""

# An object of an extension has the rights that its extension gave it.
_MADE = f"""
    SELECT * FROM ({_OBJECTS}) o
     WHERE nspname = ANY ($1::text[]) AND NOT (catalogue || ' ' || oid = ANY ($2::text[])) AND acl IS NOT NULL
       AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend d WHERE d.deptype = 'e' AND d.objid = o.oid
                          AND d.classid = ('pg_catalog.' || o.catalogue)::pg_catalog.regclass)
"""

_CHANGES = f"""
    WITH made AS ({_MADE}), given AS (
        SELECT object, grantee, privilege_type FROM made, pg_catalog.aclexplode(acl)
    ), usual AS (
        SELECT object, grantee, privilege_type
          FROM made, pg_catalog.aclexplode(pg_catalog.acldefault(kind::"char", owner))
    ), changes AS (
        SELECT 'REVOKE' AS verb, 'FROM' AS word, * FROM (TABLE given EXCEPT TABLE usual) more
         UNION ALL
        SELECT 'GRANT', 'TO', * FROM (TABLE usual EXCEPT TABLE given) less
    )
    SELECT pg_catalog.format('%s %s ON %s %s %s', verb, privilege_type, object, word,
                             CASE grantee WHEN 0 THEN 'PUBLIC' ELSE grantee::pg_catalog.regrole::text END)
      FROM changes
"""


async def objects_with_rights(connection: Connection, schemas: Collection[str]) -> frozenset[str]:
    """What schemas hold before anything is made in them, to be told apart from it afterwards."""
    with translated("looking at what is there"):
        rows = await connection.fetch(
            f"SELECT catalogue || ' ' || oid FROM ({_OBJECTS}) o WHERE nspname = ANY ($1::text[])", list(schemas)
        )
    return frozenset(row[0] for row in rows)


async def forget_default_privileges(connection: Connection, schemas: Collection[str], before: Collection[str]) -> None:
    """Give what was made in these schemas since `before` the rights that it has where there are no default privileges.

    https://www.postgresql.org/docs/current/ddl-priv.html
    """
    with translated("setting the rights of what was made"):
        for row in await connection.fetch(_CHANGES, list(schemas), list(before)):
            await connection.execute(row[0])


async def roles_out_of_reach(connection: Connection, roles: Collection[str]) -> list[str]:
    """Those of the roles to which the session's own may not give what it makes."""
    how = "SET" if connection.get_server_version().major >= 16 else "MEMBER"
    with translated("looking at the role's memberships"):
        rows = await connection.fetch(
            "SELECT r.rolname FROM pg_catalog.pg_roles r WHERE r.rolname = ANY ($1::text[])"
            " AND NOT pg_catalog.pg_has_role(r.oid, $2) ORDER BY 1",
            list(roles),
            how,
        )
    return [row[0] for row in rows]
