"""How tables stand to the change log: which columns tell their rows apart there, and what would escape it."""

from collections.abc import Collection
from dataclasses import dataclass

from jobs.postgres.connection import Connection
from jobs.postgres.errors import translated
from jobs.postgres.identifiers import TableName


@dataclass(frozen=True, slots=True)
class TableLog:
    """How one table stands to the change log.

    `identity` are the columns that tell its rows apart there; empty where it cannot be in the log, for `reason`.
    `fingerprint` changes with everything that changes its rows, their shape, or what it may hold without a trace there.
    """

    oid: int
    table: TableName
    identity: tuple[str, ...]
    fingerprint: str
    reason: str


async def read_table_logs(connection: Connection, oids: Collection[int]) -> dict[int, TableLog]:
    """How each table stands to the change log; reads the catalogue alone."""
    with translated("reading how tables tell their rows apart"):
        rows = await connection.fetch(_TABLE_LOGS, list(oids))
    return {
        row["oid"]: TableLog(
            row["oid"],
            TableName(row["nspname"], row["relname"]),
            () if row["reason"] else tuple(row["identity"]),
            row["fingerprint"],
            row["reason"] or "",
        )
        for row in rows
    }


# A replica identity that is usable (https://www.postgresql.org/docs/current/sql-altertable.html#SQL-ALTERTABLE-REPLICA-IDENTITY):
# without one, the application's own UPDATEs of a published table fail. With FULL, the primary key tells rows apart.
# What rewrites a table without a trace in the log shows in its attributes' rows; a swap of names in the names.
# What it may hold its constraints tell, its unique indexes, and the types of its columns with those that they are made
# of: rows that came after a change of these do not go into a table as it was before.
_TABLE_LOGS = """
    WITH RECURSIVE used AS (
        SELECT attrelid AS table_oid, atttypid AS type_oid FROM pg_catalog.pg_attribute
         WHERE attrelid = ANY ($1::oid[]) AND attnum > 0 AND atttypid >= 16384
         UNION
        SELECT u.table_oid, made_of.oid
          FROM used u JOIN pg_catalog.pg_type t ON t.oid = u.type_oid CROSS JOIN LATERAL (
               VALUES (t.typelem), (t.typbasetype) UNION ALL
               SELECT a.atttypid FROM pg_catalog.pg_attribute a WHERE a.attrelid = t.typrelid AND a.attnum > 0 UNION ALL
               SELECT r.rngsubtype FROM pg_catalog.pg_range r WHERE t.oid IN (r.rngtypid, r.rngmultitypid)
          ) made_of (oid) WHERE made_of.oid >= 16384
    ), types AS (
        SELECT u.table_oid, pg_catalog.string_agg(pg_catalog.concat_ws(':', t.oid, t.typnotnull,
               (SELECT pg_catalog.string_agg(e.enumlabel, ',' ORDER BY e.enumsortorder)
                  FROM pg_catalog.pg_enum e WHERE e.enumtypid = t.oid),
               (SELECT pg_catalog.string_agg(pg_catalog.concat_ws(':', a.attnum, a.atttypid, a.atttypmod), ','
                                             ORDER BY a.attnum)
                  FROM pg_catalog.pg_attribute a WHERE a.attrelid = t.typrelid AND a.attnum > 0),
               (SELECT pg_catalog.string_agg(k.oid::text, ',' ORDER BY k.oid)
                  FROM pg_catalog.pg_constraint k WHERE k.contypid = t.oid)), ';' ORDER BY t.oid) AS told
          FROM used u JOIN pg_catalog.pg_type t ON t.oid = u.type_oid GROUP BY u.table_oid
    ), identity AS (
        SELECT c.oid, i.indexrelid, i.indimmediate AND i.indisvalid AND i.indisready AND i.indislive AS usable,
               ARRAY(SELECT a.attname FROM pg_catalog.unnest(i.indkey::int2[]) WITH ORDINALITY u (attnum, position)
                       JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid AND a.attnum = u.attnum
                      WHERE u.position <= i.indnkeyatts ORDER BY u.position) AS columns,
               EXISTS (SELECT FROM pg_catalog.unnest(i.indkey::int2[]) u (attnum)
                         JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid AND a.attnum = u.attnum
                        WHERE a.attgenerated <> '') AS generated
          FROM pg_catalog.pg_class c JOIN pg_catalog.pg_index i ON i.indrelid = c.oid
         WHERE CASE c.relreplident WHEN 'i' THEN i.indisreplident WHEN 'n' THEN false ELSE i.indisprimary END
    )
    SELECT c.oid::bigint, n.nspname, c.relname, d.columns AS identity,
           CASE WHEN c.relpersistence <> 'p' THEN 'it is unlogged'
                WHEN c.relreplident = 'n' THEN 'its replica identity is NOTHING'
                WHEN d.oid IS NULL AND c.relreplident = 'i' THEN 'the index that was its replica identity is gone'
                WHEN d.oid IS NULL THEN 'it has no primary key'
                WHEN NOT d.usable THEN 'its key is deferrable or not valid'
                WHEN d.generated OR c.relreplident = 'f' AND EXISTS (
                    SELECT FROM pg_catalog.pg_attribute a WHERE a.attrelid = c.oid AND a.attgenerated <> '')
                    THEN 'a generated column is part of its replica identity' END AS reason,
           pg_catalog.encode(pg_catalog.sha256(pg_catalog.convert_to(pg_catalog.concat_ws(' ', c.oid, n.nspname,
               c.relname, c.relpersistence, c.relreplident, d.indexrelid,
               (SELECT pg_catalog.string_agg(i.inhparent::text, ',' ORDER BY i.inhseqno)
                  FROM pg_catalog.pg_inherits i WHERE i.inhrelid = c.oid),
               (SELECT pg_catalog.string_agg(pg_catalog.concat_ws(':', a.attnum, a.atttypid, a.atttypmod, a.xmin), ','
                                             ORDER BY a.attnum)
                  FROM pg_catalog.pg_attribute a WHERE a.attrelid = c.oid AND a.attnum > 0),
               (SELECT pg_catalog.string_agg(k.oid::text, ',' ORDER BY k.oid)
                  FROM pg_catalog.pg_constraint k WHERE k.conrelid = c.oid AND k.contype IN ('c', 'f')),
               (SELECT pg_catalog.string_agg(told, ';' ORDER BY told COLLATE "C") FROM (
                    SELECT pg_catalog.concat_ws(':', i.indisprimary, i.indkey, i.indexprs, i.indpred) AS told
                      FROM pg_catalog.pg_index i
                     WHERE i.indrelid = c.oid AND (i.indisunique OR i.indisexclusion)) one),
               y.told), 'UTF8')), 'hex')
               AS fingerprint
      FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
      LEFT JOIN identity d ON d.oid = c.oid LEFT JOIN types y ON y.table_oid = c.oid
     WHERE c.oid = ANY ($1::oid[])
"""
