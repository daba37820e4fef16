"""The ledger of erasures: what was erased of one subject, so that no restore and no late capture brings it back.

It knows rows by salted hashes of what they held, never by the values themselves.
"""

import asyncio
import base64
import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from storage.age import SEALED, Keyring, Recipients
from storage.errors import AlreadyExists, Corrupt, NotFound
from storage.increments import AnyBackup
from storage.names import ERASURES, is_erasure_id
from storage.objects import get, put
from storage.repository import Repository

State = Literal["begun", "done"]
AT_ONCE = 16


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)


class ErasedValues(_Record):
    """Columns, and the salted hashes (hex) of what rows held in them that are concerned."""

    columns: tuple[str, ...]
    hashes: tuple[str, ...]


class ErasedColumn(_Record):
    """What stands for a column's values in rows that stay."""

    column: str
    field: str
    unique: Literal["", "text", "number", "uuid"] = ""


class ErasedTable(_Record):
    """One table's rows: `by` which values they are known, at which `document` (column and path) if by what one holds.

    `names` are the table's, and its partitions'. `links` are columns that become NULL where they hold one of `values`.
    """

    schema_name: str = Field(alias="schema")
    name: str
    oids: tuple[int, ...]
    names: tuple[tuple[str, str], ...]
    by: tuple[tuple[str, ...], ...]
    document: tuple[str, ...] = ()
    how: Literal["drop", "anonymise"]
    links: tuple[tuple[str, ...], ...] = ()
    substitutes: tuple[ErasedColumn, ...] = ()
    values: tuple[ErasedValues, ...]


class Clean(_Record):
    """A backup that holds nothing of it from this revision on; the SHA-256 of its manifest then."""

    id: str
    revision: int
    sha256: str


class Erasure(_Record):
    """One entry. It is about what was committed up to `moment` and before `lsn` in that system, and nothing later.

    `begun` until every place was gone through; `pending` are the places that are still to come. Where backups are
    encrypted, `tables` are too: they are the age file, in base64, that is `sealed`.
    """

    format: Literal[1] = 1
    id: str
    state: State
    moment: datetime
    lsn: str
    system_identifier: str
    children: str
    salt: str
    subject: str
    tables: tuple[ErasedTable, ...]
    sealed: str | None = None
    clean: tuple[Clean, ...]
    pending: tuple[str, ...] = ()

    def clears(self, backup: AnyBackup) -> bool:
        """Whether a backup is known to hold nothing of it."""
        if self.id in backup.erasures or backup.created_at > self.moment:
            return True
        return any(one.id == backup.id and backup.revision >= one.revision for one in self.clean)

    def sealed_for(self, recipients: Recipients | None) -> "Erasure":
        """The entry as it is stored where backups are encrypted for these."""
        if recipients is None:
            return self
        sealed = base64.b64encode(recipients.seal(_TABLES.dump_json(self.tables, by_alias=True))).decode()
        return self.model_copy(update={"tables": (), "sealed": sealed})

    def opened(self, keyring: Keyring) -> "Erasure":
        """The entry with what was encrypted. Raises `NoIdentity`, `Corrupt`."""
        if self.sealed is None:
            return self
        tables = keyring.open(f"{erasure_object(self.id)}{SEALED}", base64.b64decode(self.sealed))
        return self.model_copy(update={"tables": _TABLES.validate_json(tables), "sealed": None})


_TABLES: TypeAdapter[tuple[ErasedTable, ...]] = TypeAdapter(tuple[ErasedTable, ...])


def erasure_object(erasure_id: str) -> str:
    """Where an entry lies."""
    return f"{ERASURES}{erasure_id}.json"


async def write_erasure(repository: Repository, erasure: Erasure) -> None:
    """Write an entry, or its newer state over it."""
    await put(repository.backend, erasure_object(erasure.id), _stored(erasure))


async def read_erasures(repository: Repository) -> tuple[Erasure, ...]:
    """Every entry of one place, oldest first. Raises `Corrupt` for one that cannot be read."""
    found, damaged = await read_ledger(repository)
    for one in damaged.values():
        raise one
    return found


async def read_ledger(repository: Repository) -> tuple[tuple[Erasure, ...], Mapping[str, Corrupt]]:
    """The entries of one place, oldest first; and by id what is wrong with those that cannot be read."""
    names = sorted([stored.name async for stored in repository.backend.list(ERASURES)])
    wanted = {one: name for name in names if is_erasure_id(one := name.removeprefix(ERASURES).removesuffix(".json"))}
    found, damaged, ids = list[Erasure](), dict[str, Corrupt](), list(wanted)
    for begin in range(0, len(ids), AT_ONCE):
        some = ids[begin : begin + AT_ONCE]
        datas = await asyncio.gather(*(get(repository.backend, wanted[one]) for one in some))
        for one, data in zip(some, datas, strict=True):
            try:
                found.append(_read(wanted[one], data))
            except Corrupt as error:
                damaged[one] = error
    return tuple(found), damaged


def further(one: Erasure | None, other: Erasure) -> Erasure:
    """Of two states of one entry, the one that got further."""
    return other if one is None or one.state == "begun" else one


async def mend_erasures(repositories: Sequence[Repository]) -> None:
    """Put entries that cannot be read anew, from where they can."""
    whole: dict[str, bytes] = {}
    damaged: list[tuple[Repository, str]] = []
    for repository in repositories:
        async for stored in repository.backend.list(ERASURES):
            with suppress(NotFound):
                data = await get(repository.backend, stored.name)
                try:
                    _read(stored.name, data)
                except Corrupt:
                    damaged.append((repository, stored.name))
                else:
                    whole.setdefault(stored.name, data)
    for repository, name in damaged:
        if name in whole:
            await put(repository.backend, name, whole[name])


async def share_erasures(repositories: Sequence[Repository]) -> tuple[Erasure, ...]:
    """Every entry of these places, after copying to each what it lacks."""
    has = {repository: await read_erasures(repository) for repository in repositories}
    newest: dict[str, Erasure] = {}
    for erasures in has.values():
        for one in erasures:
            newest[one.id] = further(newest.get(one.id), one)
    for repository, erasures in has.items():
        known = {one.id for one in erasures}
        for one in newest.values():
            if one.id not in known:
                with suppress(AlreadyExists):
                    await repository.backend.create(erasure_object(one.id), _stored(one))
    return tuple(newest[one] for one in sorted(newest))


def _stored(erasure: Erasure) -> bytes:
    return erasure.model_dump_json(by_alias=True, indent=1).encode()


def _read(name: str, data: bytes) -> Erasure:
    try:
        return Erasure.model_validate(json.loads(data), strict=False)
    except (ValueError, ValidationError) as error:
        raise Corrupt(
            f"{name} cannot be read: {str(error).splitlines()[0]}",
            "rowvault sync puts it right from a place that has it whole",
        ) from error
