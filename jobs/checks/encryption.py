"""The part of `doctor` about encryption: for whom backups are encrypted, and whether anybody can still open them."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from jobs.checks.findings import Finding, checked
from storage.age import NO_KEYS, SEALED, Keyring, NoIdentity, Recipients
from storage.increments import AnyBackup
from storage.manifest import StoredFile
from storage.repository import Catalogue, Repository

_OTHERS_MAY_READ = 0o077
_LOST = (
    "try the other identities that are kept; if none opens it, nobody can: set recipients whose identities you have,"
    " and take a full backup: rowvault backup"
)


@dataclass(frozen=True, slots=True)
class Encrypting:
    """For whom backups are encrypted, the identities to try on them, and files that hold identities."""

    recipients: Recipients | None = None
    keyring: Keyring = NO_KEYS
    files: tuple[Path, ...] = ()


def judge_keys(encrypting: Encrypting) -> list[Finding]:
    """What the settings come to."""
    return [_judge_recipients(encrypting), *(_judge_file(path) for path in encrypting.files)]


def _judge_recipients(encrypting: Encrypting) -> Finding:
    recipients, keyring = encrypting.recipients, encrypting.keyring
    if recipients is None:
        return Finding("encryption", "ok", "backups are not encrypted: ROWVAULT_ENCRYPTION__RECIPIENTS would do it")
    what = f"backups are encrypted for {', '.join(recipients.keys)}"
    if not keyring:
        follows = "no identity is at hand: restores, drills, and telling which rows went from tables that are compared"
        return Finding("encryption", "ok", f"{what}; {follows} need one")
    if keyring.opens(recipients.keys):
        return Finding("encryption", "ok", f"{what}, and an identity of theirs is at hand")
    hint = "add the recipient that belongs to it (age-keygen -y), or give the identity of one of the recipients"
    return Finding("encryption", "warning", f"{what}, and the identity at hand is none of theirs", hint)


def _judge_file(path: Path) -> Finding:
    try:
        mode = path.stat().st_mode
    except OSError as error:
        return Finding("identity file", "problem", f"{path}: {error.strerror}", "see that it can be read")
    if mode & _OTHERS_MAY_READ:
        message = f"{path} may be read by others than its owner: whoever has it opens every backup"
        return Finding("identity file", "warning", message, f"chmod 600 {path}")
    return Finding("identity file", "ok", f"{path} is its owner's alone")


async def examine_newest(repository: Repository, catalogue: Catalogue, encrypting: Encrypting) -> list[Finding]:
    """Whether the newest backup, and the one that it builds on, are for whom they should be, and can be opened."""
    return await checked("escrow", _examine_newest(repository, catalogue, encrypting), repository.place)


async def _examine_newest(repository: Repository, catalogue: Catalogue, encrypting: Encrypting) -> list[Finding]:
    newest = next(iter(catalogue.entries), None)
    if newest is None:
        return []
    ids = [newest.id, *([newest.base] if newest.base else [])]
    backups = [await repository.backup(one) for one in ids]
    findings = _judge_recipients_of(backups[0], encrypting.recipients, repository.place)
    sealed = [one for one in backups if one.encryption is not None]
    if not sealed:
        return findings
    if not encrypting.keyring:
        message = (
            f"whether the identity kept elsewhere opens {ids[0]} was not tried: rowvault doctor --identity FILE does"
        )
        return [*findings, Finding("escrow", "ok", message, place=repository.place)]
    return [*findings, await _try_to_open(repository, sealed, encrypting.keyring)]


def _judge_recipients_of(backup: AnyBackup, wanted: Recipients | None, place: str) -> list[Finding]:
    """Whether the newest backup was made for those for whom the next will be."""
    made = backup.encryption.recipients if backup.encryption else ()
    meant = wanted.keys if wanted else ()
    if set(made) == set(meant):
        return []
    who = f"for {', '.join(made)}" if made else "plain"
    message = f"the newest backup, {backup.id}, is {who}, which is not what the settings say"
    hint = "the next is as they say: rowvault backup; those before stay as they are, so keep their identities"
    return [Finding("encryption", "warning", message, hint, place)]


async def _try_to_open(repository: Repository, backups: Sequence[AnyBackup], keyring: Keyring) -> Finding:
    """Open the smallest object of each."""
    opening = Repository(repository.place, repository.backend, keyring)
    for backup in backups:
        try:
            opening.require_identity(backup)
            if (smallest := _smallest(backup)) is not None:
                await opening.file(smallest)
        except NoIdentity as error:
            return Finding("escrow", "problem", error.message, _LOST, repository.place)
    what = " and ".join(backup.id for backup in backups)
    return Finding("escrow", "ok", f"the identity at hand opens {what}", place=repository.place)


def _smallest(backup: AnyBackup) -> StoredFile | None:
    sealed = [stored for stored in backup.objects() if stored.name.endswith(SEALED)]
    return min(sealed, key=lambda stored: stored.bytes, default=None)
