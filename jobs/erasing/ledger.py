"""An erasure's entry in the ledger, made of what was found, and what was found, made of an entry."""

import hashlib
import secrets
from collections.abc import Collection, Sequence
from dataclasses import replace

from jobs.erasing.holdings import Held
from jobs.erasing.marks import Columns, Digests, Document, Marked, Substitute, digest
from jobs.erasing.plan import ErasePlan
from jobs.postgres.identifiers import TableName
from storage.age import NO_KEYS
from storage.erasures import Clean, ErasedColumn, ErasedTable, ErasedValues, Erasure
from storage.names import new_erasure_id
from storage.repository import Repository


def entry_of(plan: ErasePlan, clean: Collection[Held], pending: Collection[str]) -> Erasure:
    """The entry for what a plan is about to do; `clean` are backups that hold nothing of it."""
    salt = secrets.token_bytes(32)
    said = "\0".join((plan.predicate.column, *plan.predicate.path, plan.predicate.value))
    return Erasure(
        id=new_erasure_id(plan.until.moment),
        state="begun",
        moment=plan.until.moment,
        lsn=plan.until.lsn,
        system_identifier=plan.until.system_identifier,
        children=plan.children or "",
        salt=salt.hex(),
        subject=hashlib.sha256(salt + said.encode()).hexdigest(),
        tables=tuple(_table(replace(one.marked(), salt=salt), salt) for one in plan.found),
        clean=tuple(clean_entry(one) for one in sorted(clean, key=lambda one: one.manifest.id)),
        pending=tuple(pending),
    )


def clean_entry(held: Held) -> Clean:
    """How the ledger names a backup that holds nothing."""
    return Clean(id=held.manifest.id, revision=held.manifest.revision, sha256=held.sha256)


def _table(marked: Marked, salt: bytes) -> ErasedTable:
    sets: dict[Columns, None] = dict.fromkeys((*marked.by, *marked.links))
    if marked.document is not None:
        sets[marked.document.columns] = None
    return ErasedTable(
        schema_name=marked.table.schema,
        name=marked.table.name,
        oids=tuple(sorted(marked.oids)),
        names=tuple(sorted((name.schema, name.name) for name in marked.names)),
        by=marked.by,
        document=(marked.document.column, *marked.document.path) if marked.document else (),
        how=marked.how,
        links=marked.links,
        substitutes=tuple(
            ErasedColumn(column=one.column, field=one.field, unique=one.unique) for one in marked.substitutes
        ),
        values=tuple(
            ErasedValues(
                columns=columns,
                hashes=tuple(sorted(digest(salt, columns, value) for value in marked.known.listed(columns) or ())),
            )
            for columns in sets
        ),
    )


def marked_by(erasure: Erasure) -> list[Marked]:
    """The rows that an entry is about."""
    salt = bytes.fromhex(erasure.salt)
    return [
        Marked(
            table=TableName(one.schema_name, one.name),
            oids=frozenset(one.oids),
            names=frozenset(TableName(*name) for name in one.names),
            by=one.by,
            known=Digests(salt, {values.columns: frozenset(values.hashes) for values in one.values}),
            document=Document(one.document[0], one.document[1:]) if one.document else None,
            how=one.how,
            links=one.links,
            substitutes=tuple(Substitute(sub.column, sub.field, sub.unique) for sub in one.substitutes),
            salt=salt,
        )
        for one in erasure.tables
    ]


def marked_in(erasure: Erasure, places: Sequence[Repository]) -> list[Marked]:
    """The rows that an entry is about, opened by the identity of any place. Raises `NoIdentity`."""
    keyring = next((place.keyring for place in places if place.keyring), NO_KEYS)
    return marked_by(erasure.opened(keyring))
