"""What lies in every backup for the day this program is not at hand: a script and a short text."""

import shlex

from jobs.postgres.identifiers import TableName, column_list, qualified
from storage import manifest as stored


def load_script(tables: tuple[stored.Table, ...], sequences: tuple[stored.Sequence, ...], prefix: str) -> str:
    """A shell script that loads all rows with `zstd` and `psql` alone."""
    lines = [_LOAD_HEAD]
    for table in tables:
        columns = [column.name for column in table.columns if not column.generated]
        into = f" ({column_list(columns)})" if columns else ""
        place = table.load_into or table
        copy = f"COPY {qualified(TableName(place.schema_name, place.name))}{into} FROM STDIN (ENCODING 'UTF8')"
        files = [stored.name.removeprefix(prefix) for part in table.parts for stored in part.objects]
        lines.append(f"load {shlex.quote(copy)} {shlex.join(files)}")
    for sequence in sequences:
        name = qualified(TableName(sequence.schema_name, sequence.name)).replace("'", "''")
        called = str(sequence.is_called).lower()
        setval = f"SELECT pg_catalog.setval('{name}', {sequence.last_value}, {called})"
        lines.append(f"run {shlex.quote(setval)}")
    return "\n".join(lines) + "\n"


# The settings are those under which the rows were written; a role's own may be others.
_LOAD_HEAD = """\
#!/bin/sh
# Loads the rows of this backup; see RESTORE.txt. PG* variables say where to.
set -eu
cd "$(dirname "$0")"
export PGCLIENTENCODING=UTF8
export PGOPTIONS="${PGOPTIONS:-} -c DateStyle=ISO,YMD -c IntervalStyle=postgres -c TimeZone=UTC -c lc_monetary=C \
-c xmloption=content -c statement_timeout=0"

run() { psql -qtAX -v ON_ERROR_STOP=1 -c "$1" >/dev/null; }

# psql cannot tell the end of a damaged file from the end of the data, so the files are tested first.
load() {
    copy=$1
    shift
    zstd -tq "$@"
    zstd -dcq "$@" | psql -qX -v ON_ERROR_STOP=1 -c "$copy"
}
"""


INSTRUCTIONS = """\
How to restore this backup with psql, pg_restore and zstd alone
================================================================

What is in this folder:
  schema.dump  definitions, a pg_dump archive      schema.sql  the same as plain SQL
  roles.sql    roles, memberships and settings     load.sh     loads all rows and sets the sequences
  data/SCHEMA/TABLE/PART-PIECE.copy.zst            COPY text, zstd-compressed; =XX in a name is a byte in hex

The manifest of the backup, manifests/{id}~….json, lists every object with its SHA-256
(`head -n -2 MANIFEST | sha256sum` checks the manifest itself).

In this folder, with PGHOST, PGPORT, PGUSER and PGPASSWORD set (pg_restore {tool} or newer):

  1.  psql -d postgres -f roles.sql                  # where roles are missing; read it first
  2.  createdb restored; export PGDATABASE=restored
  3.  pg_restore --section=pre-data -d restored schema.dump
  4.  sh load.sh
  5.  pg_restore --section=post-data -d restored schema.dump

Connect to the server itself, not through a pooler. Should a step fail, drop the database and begin again.
Step 3 says that schema "public" exists already: that is as it should be. Materialized views are empty until they are
refreshed; foreign keys to tables outside this backup cannot be made where those tables are missing.
Where the server lacks a tablespace, add --no-tablespaces to steps 3 and 5.

One table alone: zstd -dc data/SCHEMA/TABLE/*.copy.zst | psql -c 'COPY schema.table (columns…) FROM STDIN'
(the columns are in load.sh). One row: zstd -dc data/SCHEMA/TABLE/*.copy.zst | grep …
"""
