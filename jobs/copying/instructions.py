"""What lies in every backup for the day this program is not at hand: a script and a short text."""

import shlex

from jobs.postgres.identifiers import TableName, column_list, qualified
from storage import manifest as stored
from storage.age import Recipients


def load_script(
    tables: tuple[stored.Table, ...],
    sequences: tuple[stored.Sequence, ...],
    prefix: str,
    recipients: Recipients | None = None,
    folder: str = "",
) -> str:
    """A shell script that loads all rows with `zstd` and `psql` alone, and `age` where they are encrypted.

    It lies in that folder below the prefix, which is empty or ends in `/`.
    """
    head = _LOAD_HEAD.replace("{up}", "/.." if folder else "")
    lines = [head + (_LOAD_PLAIN if recipients is None else _LOAD_SEALED)]
    for table in tables:
        columns = [column.name for column in table.columns if not column.generated]
        into = f" ({column_list(columns)})" if columns else ""
        place = table.load_into or table
        copy = f"COPY {qualified(TableName(place.schema_name, place.name))}{into} FROM STDIN (ENCODING 'UTF8')"
        files = {stored.name.removeprefix(prefix): stored.bytes for part in table.parts for stored in part.objects}
        lines += [f"sized {size} {shlex.quote(file)}" for file, size in files.items()]
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
cd "$(dirname "$0"){up}"
export PGCLIENTENCODING=UTF8
export PGOPTIONS="${PGOPTIONS:-} -c DateStyle=ISO,YMD -c IntervalStyle=postgres -c TimeZone=UTC -c lc_monetary=C \
-c xmloption=content -c statement_timeout=0"

run() { psql -qtAX -v ON_ERROR_STOP=1 -c "$1" >/dev/null; }

# psql cannot tell the end of a damaged file from the end of the data, so the files are tested first; nor can zstd,
# where a file was cut off between two of its frames.
sized() {
    [ "$(wc -c <"$2")" -eq "$1" ] || { echo "$2 is damaged: it should have $1 bytes" >&2; exit 1; }
}

"""

_LOAD_PLAIN = """\
load() {
    copy=$1
    shift
    zstd -tq "$@"
    zstd -dcq "$@" | psql -qX -v ON_ERROR_STOP=1 -c "$copy"
}
"""

# A pipe tells only how its last command ended; what age cannot decrypt to its end is no whole zstd data either.
_LOAD_SEALED = """\
: "${AGE_IDENTITY:?must name the file with the identity that opens this backup}"
opened() { age -d -i "$AGE_IDENTITY" "$1"; }
load() {
    copy=$1
    shift
    for file; do opened "$file" | zstd -tq || { echo "$file is damaged, or for another identity" >&2; exit 1; }; done
    for file; do opened "$file"; done | zstd -dcq | psql -qX -v ON_ERROR_STOP=1 -c "$copy"
}
"""


def instructions(backup_id: str, tool: str, recipients: Recipients | None, folder: str = "") -> str:
    """The short text; `tool` is the version of pg_dump, `folder` where the script lies below the backup's prefix."""
    if recipients is None:
        words = {"programs": "psql, pg_restore and zstd", "ending": "", "what": "zstd-compressed", "opening": ""}
        plain = "zstd -dc data/SCHEMA/TABLE/*.copy.zst"
    else:
        opening = _OPENING.format(keys="\n".join(f"  {key}" for key in recipients.keys))
        words = {
            "programs": "psql, pg_restore, zstd and age",
            "ending": ".age",
            "what": "encrypted",
            "opening": opening,
        }
        plain = 'for f in data/SCHEMA/TABLE/*; do age -d -i "$AGE_IDENTITY" $f; done | zstd -dc'
    title = f"How to restore this backup with {words['programs']} alone"
    words |= {"title": title, "line": "=" * len(title), "plain": plain, "folder": folder}
    return _INSTRUCTIONS.format(id=backup_id, tool=tool, **words)


_OPENING = """\
All but this text is encrypted with age (https://age-encryption.org), for

{keys}

What opens it is a file with the identity of one of them (AGE-SECRET-KEY-1…). In this folder, first of all:

  export AGE_IDENTITY=FILE
  for f in *.age; do age -d -i "$AGE_IDENTITY" -o "${{f%.age}}" "$f"; done

load.sh then decrypts the rows on their way.

"""

_INSTRUCTIONS = """\
{title}
{line}

What is in the folder backups/{id}/:
  schema.dump  definitions, a pg_dump archive      schema.sql  the same as plain SQL
  roles.sql    roles, memberships and settings     {folder}load.sh     loads all rows and sets the sequences
  data/SCHEMA/TABLE/PART-PIECE.copy.zst{ending}
               rows: COPY text, {what}; =XX in a name is a byte in hex

The manifest of the backup, manifests/{id}~….json, lists every object with its SHA-256
(`head -n -2 MANIFEST | sha256sum` checks the manifest itself).

{opening}In that folder, with PGHOST, PGPORT, PGUSER and PGPASSWORD set (pg_restore {tool} or newer):

  1.  psql -d postgres -f roles.sql                  # where roles are missing; read it first
  2.  createdb restored; export PGDATABASE=restored
  3.  pg_restore --section=pre-data -d restored schema.dump
  4.  sh {folder}load.sh
  5.  pg_restore --section=post-data -d restored schema.dump

Connect to the server itself, not through a pooler. Should a step fail, drop the database and begin again.
Step 3 says that schema "public" exists already, and an older server than pg_restore that it does not know
transaction_timeout: that is as it should be. Materialized views are empty until they are refreshed; foreign keys to
tables outside this backup cannot be made where those tables are missing.
Where the server lacks a tablespace, add --no-tablespaces to steps 3 and 5.

One table alone (the columns and files are in {folder}load.sh):
  {plain} | psql -c 'COPY schema.table (columns…) FROM STDIN'
One row: {plain} | grep …
"""
