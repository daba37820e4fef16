"""All backups under one storage root. Its listing is the catalogue; there is no other state."""

import asyncio
import hashlib
import json
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from storage.age import NO_KEYS, SEALED, Keyring, NoIdentity
from storage.backends.protocol import Backend, StoredObject
from storage.errors import AlreadyExists, Corrupt, NotFound, StorageError
from storage.increments import AnyBackup, Incremental
from storage.leases import CLOCKS_APART, Lease
from storage.manifest import Manifest, StoredFile
from storage.manifest_file import dump_manifest, load_manifest
from storage.names import (
    ARCHIVES,
    BACKUPS,
    KEPT,
    MANIFESTS,
    REPOSITORY,
    VERIFICATIONS,
    ManifestName,
    backup_prefix,
    id_kind,
    id_moment,
    is_manifest_name,
)
from storage.objects import get, put
from storage.retention import Policy


class OtherSource(StorageError):
    """The repository belongs to another database than the one at hand."""


@dataclass(frozen=True, slots=True)
class Identity:
    """Which database a repository holds backups of, and since when."""

    system_identifier: str
    database: str
    created_at: datetime

    def same_database(self, other: "Identity") -> bool:
        """Whether both mean one database, whenever its repository began."""
        return (self.system_identifier, self.database) == (other.system_identifier, other.database)


@dataclass(frozen=True, slots=True)
class Entry:
    """One committed backup as the listing shows it. `written_at`: when its manifest was, by the store's clock."""

    id: str
    kind: str
    created_at: datetime
    base: str | None
    rows: int
    bytes_stored: int
    label: str
    kept: bool
    verified: str | None  # success, failed, or None where it was not verified yet
    manifest: str  # the manifest's name
    revision: int = 0
    written_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Catalogue:
    """The committed backups, newest first; `strays` are names among the manifests that are no manifest's.

    `superseded` are the manifests of earlier revisions, which an interrupted erasure left.
    """

    entries: tuple[Entry, ...]
    strays: tuple[str, ...]
    superseded: tuple[str, ...] = ()

    def of_kind(self, kind: str) -> list[Entry]:
        """The backups of a kind, newest first; after all others what a wrong clock dated in the future."""
        latest = datetime.now(UTC) + CLOCKS_APART
        found = (entry for entry in self.entries if entry.kind == kind)
        return sorted(found, key=lambda entry: entry.created_at > latest)


class Repository:
    """The backups of one database in one place. `place` is what people call it: `local`, `s3`.

    What is encrypted there is opened with the identities of `keyring`. `policy` says which backups it should hold;
    None: all of them, for ever.
    """

    def __init__(self, place: str, backend: Backend, keyring: Keyring = NO_KEYS, policy: Policy | None = None) -> None:
        self.place = place
        self.backend = backend
        self.keyring = keyring
        self.policy = policy

    def through(self, backend: Backend) -> "Repository":
        """The same repository, reached by another backend."""
        return Repository(self.place, backend, self.keyring, self.policy)

    async def identity(self) -> Identity | None:
        """Which database this repository is bound to; None for a new one."""
        try:
            fields = json.loads(await get(self.backend, REPOSITORY))
            return Identity(
                fields["system_identifier"], fields["database"], datetime.fromisoformat(fields["created_at"])
            )
        except NotFound:
            return None
        except (ValueError, KeyError, TypeError) as error:
            raise Corrupt(
                f"{REPOSITORY} in {self.place} cannot be read: {error!r}",
                "rowvault sync binds it as another place is; without one, rowvault backup --adopt binds it anew",
            ) from error

    async def bind(self, system_identifier: str, database: str, *, adopt: bool = False) -> Identity:
        """Bind a new repository to a database, or check that it is bound to this one; else raise `OtherSource`.

        `adopt` binds it anew, even where it cannot be read whom it was bound to.
        """
        identity = Identity(system_identifier, database, datetime.now(UTC))
        if adopt:
            return await self._adopt(identity)
        bound = await self.identity()
        if bound is None:
            try:
                await self.backend.create(REPOSITORY, _identity_file(identity))
            except AlreadyExists:  # somebody was just binding it, to this database or another
                return await self.bind(system_identifier, database)
            return identity
        if not bound.same_database(identity):
            raise OtherSource(
                f"{self.place} holds backups of database {bound.database!r} of system {bound.system_identifier}, "
                f"not of {database!r} of system {system_identifier}",
                "choose another ROWVAULT_LOCAL_PATH or ROWVAULT_S3__PREFIX; or, if this database took the other's "
                "place, say --adopt",
            )
        return bound

    async def _adopt(self, identity: Identity) -> Identity:
        try:
            bound = await self.identity()
        except Corrupt:
            bound = None
        if bound is not None:
            identity = replace(identity, created_at=bound.created_at)
        if bound != identity:
            await put(self.backend, REPOSITORY, _identity_file(identity))
        return identity

    async def bind_as(self, identity: Identity) -> None:
        """Bind the repository to what another place is bound to, since as long."""
        await put(self.backend, REPOSITORY, _identity_file(identity))

    async def catalogue(self) -> Catalogue:
        """Every committed backup, from names alone."""
        written, marks, verified = await asyncio.gather(
            self._written(MANIFESTS), self.marked(), self._names(VERIFICATIONS)
        )
        states = _worst_states(verified)
        newest: dict[str, ManifestName] = {}
        strays, superseded = [], []
        for name in written:
            try:
                parsed = ManifestName.parse(name)
            except Corrupt:
                strays.append(name)
                continue
            older, newest[parsed.id] = _by_revision(newest.get(parsed.id), parsed)
            superseded += [str(older)] if older is not None else []
        entries = [_entry(name, marks, states, written[str(name)]) for name in newest.values()]
        entries.sort(key=lambda entry: entry.id, reverse=True)
        return Catalogue(tuple(entries), tuple(strays), tuple(superseded))

    async def marked(self) -> set[str]:
        """Ids of the backups that have a keep mark."""
        return {name.removeprefix(KEPT).removesuffix(".json") for name in await self._names(KEPT)}

    async def find(self, backup_id: str) -> str:
        """The name of a backup's manifest, that of its newest revision; raises `NotFound`."""
        if names := await self.manifests(backup_id):
            return names[-1]
        raise NotFound(f"no backup {backup_id} in {self.place}", "list the backups with: rowvault list")

    async def has(self, backup_id: str) -> bool:
        """Whether a backup is committed here."""
        return bool(await self.manifests(backup_id))

    async def manifests(self, backup_id: str) -> list[str]:
        """The names of a backup's manifests, the newest revision last; there are several for a moment only."""
        names = [name for name in await self._names(f"{MANIFESTS}{backup_id}~") if is_manifest_name(name)]
        return sorted(names, key=lambda name: ManifestName.parse(name).revision)

    async def backup(self, backup_id: str) -> AnyBackup:
        """The manifest of a backup of any kind; raises `NotFound` or `Corrupt`."""
        return (await self.stored(backup_id))[0]

    async def stored(self, backup_id: str) -> tuple[AnyBackup, str]:
        """The manifest of a backup, and the SHA-256 of the file that it is stored as; raises as `backup`."""
        name = await self.find(backup_id)
        data = await get(self.backend, name)
        return load_manifest(name, data), hashlib.sha256(data).hexdigest()

    async def manifest(self, backup_id: str) -> Manifest:
        """The manifest of a full backup or an archive; raises `NotFound`, for other kinds too, or `Corrupt`."""
        found = await self.backup(backup_id)
        if isinstance(found, Manifest):
            return found
        raise NotFound(f"{backup_id} in {self.place} is no full backup", "list the backups with: rowvault list")

    async def incremental(self, backup_id: str) -> Incremental:
        """The manifest of an incremental backup; raises `NotFound`, for one of another kind too, or `Corrupt`."""
        found = await self.backup(backup_id)
        if not isinstance(found, Manifest):
            return found
        raise NotFound(f"{backup_id} in {self.place} is no incremental one", "list the backups with: rowvault list")

    async def commit(self, manifest: AnyBackup) -> None:
        """Make a backup exist: settle, check that every object is there in its size, then write the manifest.

        Raises `Corrupt` if an object is missing or has another size; then there is no backup.
        """
        await self.backend.settle()
        there = {stored.name: stored.size async for stored in self.objects(manifest.id)}
        for stored in manifest.objects():
            if there.get(stored.name) != stored.bytes:
                raise Corrupt(
                    f"{stored.name} in {self.place}: {stored.bytes} bytes were written, found {there.get(stored.name)}",
                    "the backup is not committed; look at the storage, then run it again",
                )
        data = dump_manifest(manifest)
        name = str(manifest.name())
        try:
            await self.backend.create(name, data)
        except AlreadyExists:
            if await get(self.backend, name) != data:
                raise

    def can_open(self, backup: AnyBackup) -> bool:
        """Whether what the backup holds can be read: it is plain, or encrypted for an identity at hand."""
        return backup.encryption is None or self.keyring.opens(backup.encryption.recipients)

    def require_identity(self, backup: AnyBackup) -> None:
        """Raise `NoIdentity`, naming the recipients of the backup, unless what it holds can be read."""
        if backup.encryption is not None and not self.can_open(backup):
            what = "and the identity given is none of theirs" if self.keyring else "and no identity was given"
            raise NoIdentity(f"{backup.id} is encrypted for {', '.join(backup.encryption.recipients)}, {what}")

    async def file(self, stored: StoredFile) -> bytes:
        """The plain bytes of a small object of a backup. Raises `NotFound`, `Corrupt`, `NoIdentity`."""
        data = await get(self.backend, stored.name)
        if hashlib.sha256(data).hexdigest() != stored.sha256:
            raise Corrupt(f"{stored.name} in {self.place} is not what was backed up", "see rowvault verify")
        return self.keyring.open(stored.name, data) if stored.name.endswith(SEALED) else data

    def objects(self, backup_id: str) -> AsyncIterator[StoredObject]:
        """What lies under a backup's prefix, committed or not."""
        return self.backend.list(backup_prefix(backup_id))

    async def begun(self) -> set[str]:
        """Ids under which objects lie, with a manifest or without."""
        return {folder for kind in (BACKUPS, ARCHIVES) async for folder in self.backend.folders(kind)}

    async def claimed(self, backup_id: str) -> bool:
        """Whether any name among the manifests begins with the id: even a stray one may describe the objects."""
        return bool(await self._names(f"{MANIFESTS}{backup_id}"))

    async def keep(self, backup_id: str, reason: str) -> None:
        """Set a keep mark: retention does not touch the backup until it is lifted. Raises `NotFound`."""
        await self.find(backup_id)
        mark = {"reason": reason, "since": datetime.now(UTC).isoformat()}
        await put(self.backend, f"{KEPT}{backup_id}.json", json.dumps(mark).encode())
        await self.find(backup_id)  # it may just have been pruned

    async def kept(self, backup_id: str) -> str | None:
        """The reason on a backup's keep mark; None if it has no mark."""
        try:
            mark = await get(self.backend, f"{KEPT}{backup_id}.json")
        except NotFound:
            return None
        try:
            return str(json.loads(mark)["reason"])
        except (ValueError, KeyError, TypeError):
            return ""  # a mark that cannot be read is a mark

    async def release(self, backup_id: str) -> None:
        """Lift a keep mark; one that is not there is no error."""
        await self.find(backup_id)
        await self.backend.delete([f"{KEPT}{backup_id}.json"])

    async def record_verification(self, backup_id: str, state: str, report: Mapping[str, object]) -> None:
        """Remember what the newest verification came to."""
        name = f"{VERIFICATIONS}{backup_id}~{state}.json"
        await put(self.backend, name, json.dumps(report, ensure_ascii=False).encode())
        others = await self._names(f"{VERIFICATIONS}{backup_id}~")
        # One that was pruned meanwhile gets none: it would say that somebody else removed the manifest.
        there = await self.has(backup_id)
        await self.backend.delete([other for other in others if other != name or not there])

    async def failed_objects(self, backup_id: str) -> set[str] | None:
        """The objects that the newest verification found fault with; None if that cannot be told."""
        try:
            report = json.loads(await get(self.backend, f"{VERIFICATIONS}{backup_id}~failed.json"))
            return {str(problem["object"]) for problem in report["problems"]}
        except (NotFound, ValueError, KeyError, TypeError):
            return None

    async def lease(self, backup_id: str, purpose: str) -> Lease:
        """Protect a backup's objects from being swept, until the lease is released or no longer kept."""
        return await Lease.take(self.backend, backup_id, purpose)

    async def _names(self, prefix: str) -> list[str]:
        return list(await self._written(prefix))

    async def _written(self, prefix: str) -> dict[str, datetime]:
        return {stored.name: stored.modified async for stored in self.backend.list(prefix)}


def _identity_file(identity: Identity) -> bytes:
    fields = {
        "format": 1,
        "system_identifier": identity.system_identifier,
        "database": identity.database,
        "created_at": identity.created_at.isoformat(),
    }
    return json.dumps(fields, indent=1).encode()


def _worst_states(names: list[str]) -> dict[str, str]:
    """State by backup id. Two records mean that a newer one was being written: the worse counts."""
    states: dict[str, str] = {}
    for name in names:
        backup_id, _, state = name.removeprefix(VERIFICATIONS).removesuffix(".json").partition("~")
        states[backup_id] = "failed" if "failed" in (state, states.get(backup_id)) else state
    return states


def _entry(name: ManifestName, kept: set[str], verified: dict[str, str], written_at: datetime) -> Entry:
    return Entry(
        id=name.id,
        kind=id_kind(name.id),
        created_at=id_moment(name.id),
        base=name.base,
        rows=name.rows,
        bytes_stored=name.bytes_stored,
        label=name.label,
        kept=name.id in kept,
        verified=verified.get(name.id),
        manifest=str(name),
        revision=name.revision,
        written_at=written_at,
    )


def _by_revision(one: ManifestName | None, other: ManifestName) -> tuple[ManifestName | None, ManifestName]:
    """The older of two manifests of one backup, and the newer."""
    if one is None:
        return None, other
    return (one, other) if one.revision < other.revision else (other, one)
