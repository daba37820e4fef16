"""What a dump of whole schemas needs beside them: other schemas, and roles."""

from jobs.postgres.catalogue import USER_SCHEMA
from jobs.postgres.connection import Connection


async def schemas_needed_by(connection: Connection, schemas: set[str]) -> set[str]:
    """The schemas, and all those that their objects depend on, but for system schemas and members of extensions.

    A foreign key to a table elsewhere is no such dependence: it is reported, and left out on restore where need be.
    """
    # Where the catalogue was never analysed the planner would take nested loops, minutes with thousands of tables.
    await connection.execute("SET enable_nestloop = off")
    edges = [(row["dependent"], row["needed"]) for row in await connection.fetch(_SCHEMA_DEPENDENCIES)]
    await connection.execute("RESET enable_nestloop")
    closed: set[str] = set()
    growing = set(schemas)
    while growing - closed:
        closed |= growing
        growing = {needed for dependent, needed in edges if dependent in closed}
    return closed


_SCHEMA_DEPENDENCIES = f"""
    WITH member AS MATERIALIZED (
        SELECT classid, objid FROM pg_depend WHERE deptype = 'e'
    ), object (classid, objid, nsp) AS (
        SELECT 'pg_class'::regclass::oid, oid, relnamespace FROM pg_class
        UNION ALL SELECT 'pg_proc'::regclass, oid, pronamespace FROM pg_proc
        UNION ALL SELECT 'pg_type'::regclass, oid, typnamespace FROM pg_type
        UNION ALL SELECT 'pg_operator'::regclass, oid, oprnamespace FROM pg_operator
        UNION ALL SELECT 'pg_opclass'::regclass, oid, opcnamespace FROM pg_opclass
        UNION ALL SELECT 'pg_collation'::regclass, oid, collnamespace FROM pg_collation
        UNION ALL SELECT 'pg_ts_config'::regclass, oid, cfgnamespace FROM pg_ts_config
        UNION ALL SELECT 'pg_constraint'::regclass, oid, connamespace FROM pg_constraint WHERE contype <> 'f'
        UNION ALL SELECT 'pg_attrdef'::regclass, a.oid, relnamespace
                    FROM pg_attrdef a JOIN pg_class c ON c.oid = adrelid
        UNION ALL SELECT 'pg_trigger'::regclass, t.oid, relnamespace
                    FROM pg_trigger t JOIN pg_class c ON c.oid = tgrelid
                   WHERE NOT tgisinternal
        UNION ALL SELECT 'pg_policy'::regclass, p.oid, relnamespace
                    FROM pg_policy p JOIN pg_class c ON c.oid = polrelid
        UNION ALL SELECT 'pg_rewrite'::regclass, r.oid, relnamespace
                    FROM pg_rewrite r JOIN pg_class c ON c.oid = ev_class
    ), placed AS MATERIALIZED (
        SELECT o.classid, o.objid, o.nsp, n.nspname
          FROM object o JOIN pg_namespace n ON n.oid = o.nsp LEFT JOIN member m USING (classid, objid)
         WHERE m.objid IS NULL AND {USER_SCHEMA}
    )
    SELECT DISTINCT a.nspname AS dependent, b.nspname AS needed
      FROM pg_depend d
      JOIN placed a ON (a.classid, a.objid) = (d.classid, d.objid)
      JOIN placed b ON (b.classid, b.objid) = (d.refclassid, d.refobjid)
     WHERE a.nsp <> b.nsp
"""


async def tablespaces_named_by(connection: Connection, schemas: list[str]) -> tuple[str, ...]:
    """The tablespaces, but for the database's own, in which tables and indexes of these schemas lie."""
    rows = await connection.fetch(_TABLESPACES_NAMED, schemas)
    return tuple(row["spcname"] for row in rows)


_TABLESPACES_NAMED = """
    SELECT spcname FROM pg_tablespace WHERE oid IN (
        SELECT reltablespace FROM pg_class JOIN pg_namespace n ON n.oid = relnamespace
         WHERE n.nspname = ANY ($1::text[])
    ) ORDER BY spcname
"""


async def roles_named_by(connection: Connection, schemas: list[str]) -> tuple[str, ...]:
    """The roles that a dump of these schemas names: owners, grantees, and those of policies."""
    rows = await connection.fetch(_ROLES_NAMED, schemas)
    return tuple(row["rolname"] for row in rows)


_ROLES_NAMED = """
    WITH owned (owner, acl) AS (
        SELECT nspowner, nspacl FROM pg_namespace WHERE nspname = ANY ($1::text[])
        UNION ALL SELECT relowner, relacl FROM pg_class JOIN pg_namespace n ON n.oid = relnamespace
                   WHERE n.nspname = ANY ($1::text[])
        UNION ALL SELECT proowner, proacl FROM pg_proc p JOIN pg_namespace n ON n.oid = pronamespace
                   WHERE n.nspname = ANY ($1::text[])
        UNION ALL SELECT typowner, typacl FROM pg_type JOIN pg_namespace n ON n.oid = typnamespace
                   WHERE n.nspname = ANY ($1::text[])
        UNION ALL SELECT relowner, attacl FROM pg_attribute JOIN pg_class c ON c.oid = attrelid
                   JOIN pg_namespace n ON n.oid = relnamespace
                   WHERE n.nspname = ANY ($1::text[]) AND attacl IS NOT NULL
        UNION ALL SELECT defaclrole, defaclacl FROM pg_default_acl JOIN pg_namespace n ON n.oid = defaclnamespace
                   WHERE n.nspname = ANY ($1::text[])
    )
    SELECT rolname FROM pg_roles WHERE oid IN (
        SELECT owner FROM owned
        UNION SELECT x.grantee FROM owned, LATERAL aclexplode(acl) x
        UNION SELECT unnest(polroles) FROM pg_policy JOIN pg_class c ON c.oid = polrelid
               JOIN pg_namespace n ON n.oid = relnamespace WHERE n.nspname = ANY ($1::text[])
    ) AND rolname !~ '^pg_' ORDER BY rolname
"""


async def servers_named_by(connection: Connection, schemas: list[str]) -> tuple[str, ...]:
    """The foreign servers of foreign tables in these schemas: they belong to none, so no dump of schemas has them."""
    rows = await connection.fetch(
        """
        SELECT DISTINCT s.srvname FROM pg_catalog.pg_foreign_table f
          JOIN pg_catalog.pg_foreign_server s ON s.oid = f.ftserver
          JOIN pg_catalog.pg_class c ON c.oid = f.ftrelid JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
         WHERE n.nspname = ANY ($1::text[]) ORDER BY 1
        """,
        schemas,
    )
    return tuple(row["srvname"] for row in rows)


async def objects_outside_schemas(connection: Connection) -> tuple[str, ...]:
    """What people made that belongs to the database and to no schema, in words: `publication p`, `cast (a AS b)`."""
    rows = await connection.fetch(_OUTSIDE_SCHEMAS)
    return tuple(row["object"] for row in rows)


# Objects of initdb have oids below 16384: https://www.postgresql.org/docs/current/system-catalog-initial-data.html
_OUTSIDE_SCHEMAS = """
    WITH outside (classid, objid) AS (
        SELECT 'pg_catalog.pg_cast'::pg_catalog.regclass, oid FROM pg_catalog.pg_cast
        UNION ALL SELECT 'pg_catalog.pg_transform'::pg_catalog.regclass, oid FROM pg_catalog.pg_transform
        UNION ALL SELECT 'pg_catalog.pg_language'::pg_catalog.regclass, oid FROM pg_catalog.pg_language
        UNION ALL SELECT 'pg_catalog.pg_event_trigger'::pg_catalog.regclass, oid FROM pg_catalog.pg_event_trigger
        UNION ALL SELECT 'pg_catalog.pg_publication'::pg_catalog.regclass, oid FROM pg_catalog.pg_publication
                   WHERE pubname <> 'rowvault'
        UNION ALL SELECT 'pg_catalog.pg_subscription'::pg_catalog.regclass, s.oid FROM pg_catalog.pg_subscription s
                    JOIN pg_catalog.pg_database d ON d.oid = subdbid WHERE datname = pg_catalog.current_database()
        UNION ALL SELECT 'pg_catalog.pg_foreign_data_wrapper'::pg_catalog.regclass, oid
                    FROM pg_catalog.pg_foreign_data_wrapper
        UNION ALL SELECT 'pg_catalog.pg_foreign_server'::pg_catalog.regclass, oid FROM pg_catalog.pg_foreign_server
        UNION ALL SELECT 'pg_catalog.pg_default_acl'::pg_catalog.regclass, oid FROM pg_catalog.pg_default_acl
                   WHERE defaclnamespace = 0
    )
    SELECT i.type || ' ' || i.identity AS object
      FROM outside o, LATERAL pg_catalog.pg_identify_object(o.classid, o.objid, 0) i
     WHERE o.objid >= 16384 AND NOT EXISTS (
           SELECT FROM pg_catalog.pg_depend d WHERE (d.classid, d.objid) = (o.classid, o.objid) AND d.deptype = 'e')
     ORDER BY 1
"""
