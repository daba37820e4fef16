"""The places that the settings name, opened: a folder, a bucket, and a bucket for archives where there is one."""

from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace

from pydantic import SecretStr

from daemon.settings.environment import full_name
from daemon.settings.load import read_keyring
from daemon.settings.model import Settings
from storage.backends.factory import open_local, open_s3
from storage.backends.protocol import Backend
from storage.backends.retrying import Patience
from storage.backends.s3_options import Keeping, S3Options
from storage.names import is_of_a_backup, is_of_an_archive
from storage.repository import Repository

LOCAL, OFF_SITE, ARCHIVE = "local", "s3", "archive"


@dataclass(frozen=True, slots=True)
class Places:
    """The places, the primary one first; `impatient` has each one's backend for what is not worth trying again."""

    repositories: list[Repository] = field(default_factory=list)
    impatient: dict[str, Backend] = field(default_factory=dict)


async def open_places(settings: Settings, stack: AsyncExitStack) -> Places:
    """Open them until the stack is closed. Raises `SettingsError` if there is none, or keys cannot be read."""
    settings.require_places()
    keyring = read_keyring(settings.encryption.identity_file, full_name("encryption", "identity_file"))
    places = Places()
    if settings.local_path is not None:
        disk = open_local(settings.local_path)
        places.repositories.append(Repository(LOCAL, disk, keyring, settings.policy))
        places.impatient[LOCAL] = disk
    buckets = [(OFF_SITE, _s3_options(settings), settings.s3_policy)] if settings.s3.bucket else []
    buckets += [(ARCHIVE, _archive_options(settings), settings.archive_policy)] if settings.archive.bucket else []
    patience = Patience(total=settings.s3.retry_for.total_seconds())
    for name, options, policy in buckets:
        store = await open_s3(options, patience)
        stack.push_async_callback(store.close)
        places.repositories.append(Repository(name, store, keyring, policy))
        places.impatient[name] = store.impatient
    return places


def _s3_options(settings: Settings) -> S3Options:
    s3 = settings.s3
    return S3Options(
        bucket=s3.bucket or "",
        prefix=s3.prefix,
        endpoint_url=s3.endpoint_url,
        region=s3.region,
        access_key_id=_reveal(s3.access_key_id),
        secret_access_key=_reveal(s3.secret_access_key),
        session_token=_reveal(s3.session_token),
        addressing_style=s3.addressing_style,
        ca_file=s3.ca_file,
        connect_seconds=settings.connect_timeout.total_seconds(),
        silence_seconds=s3.timeout.total_seconds(),
        sse=s3.sse,
        sse_kms_key_id=s3.sse_kms_key_id,
        # Leases and the like are small and written again and again, which costs more in other classes.
        keepings=(_of_archives(settings), Keeping(is_of_a_backup, s3.storage_class)),
    )


def _archive_options(settings: Settings) -> S3Options:
    """As the off-site place, but for what is said otherwise; keys belong to an address."""
    archive, shared = settings.archive, _s3_options(settings)
    options = replace(
        shared,
        bucket=archive.bucket or "",
        prefix=archive.prefix,
        endpoint_url=archive.endpoint_url or shared.endpoint_url,
        region=archive.region or shared.region,
        keepings=(_of_archives(settings),),
        given_by={full_name("s3", name): full_name("archive", name) for name in _own(settings)},
    )
    if archive.access_key_id is None:
        return options
    return replace(
        options,
        access_key_id=_reveal(archive.access_key_id),
        secret_access_key=_reveal(archive.secret_access_key),
        session_token=None,
    )


def _own(settings: Settings) -> set[str]:
    """What the bucket for archives has of its own, of what both have."""
    return (settings.archive.model_fields_set & type(settings.s3).model_fields.keys()) | {"bucket"}


def _of_archives(settings: Settings) -> Keeping:
    archive = settings.archive
    storage_class = archive.storage_class or settings.s3.storage_class
    return Keeping(is_of_an_archive, storage_class, archive.lock_mode, archive.lock_days or 0)


def _reveal(secret: SecretStr | None) -> str | None:
    return secret.get_secret_value() if secret else None
