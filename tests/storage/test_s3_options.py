"""How a bucket is reached, with which keys, and what is said when it cannot be: what, where, and what to do."""

import socket
import ssl
import subprocess
import traceback
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Literal

import pytest

from storage.backends.factory import open_s3 as open_patient
from storage.backends.protocol import Backend
from storage.backends.s3 import S3Options
from storage.errors import Refused, StorageError, Unavailable
from tests.storage.conftest import OpenS3
from tests.storage.helpers import fetch, names, store, unfinished
from tests.storage.meddler import Meddler, error


@pytest.fixture
def unused_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


ATTEMPTS: dict[str, Callable[[Backend], Awaitable[object]]] = {
    "list": names,
    "stat": lambda backend: backend.stat("object"),
    "read": lambda backend: fetch(backend, "object"),
    "write": lambda backend: store(backend, "object", b"bytes"),
    "create": lambda backend: backend.create("object", b"bytes"),
    "delete": lambda backend: backend.delete(["object"]),
    "unfinished": unfinished,
}


@pytest.mark.parametrize(
    ("change", "hint"),
    [
        ({"secret_access_key": "not-the-secret"}, "ROWVAULT_S3__SECRET_ACCESS_KEY"),
        ({"access_key_id": "nobody"}, "ROWVAULT_S3__ACCESS_KEY_ID"),
        ({"bucket": "no-such-bucket"}, "ROWVAULT_S3__BUCKET"),
        ({"bucket": "No Bucket"}, "ROWVAULT_S3__BUCKET"),
    ],
)
async def test_wrong_settings_are_refused_with_what_to_correct(
    s3_options: S3Options, open_s3: OpenS3, change: dict[str, str], hint: str
) -> None:
    options = replace(s3_options, **change)  # type: ignore[arg-type]  # every change is of a text
    backend = await open_s3(options)
    for attempt in ATTEMPTS.values():
        with pytest.raises(Refused) as caught:
            await attempt(backend)
        assert hint in caught.value.hint
        assert options.bucket in caught.value.message
        assert str(options.endpoint_url) in caught.value.message


@pytest.mark.parametrize("change", [{"endpoint_url": "no url"}, {"region": "!!"}, {"ca_file": Path("/absent.pem")}])
async def test_impossible_settings_are_refused_before_anything_is_asked(
    s3_options: S3Options, open_s3: OpenS3, change: dict[str, str]
) -> None:
    with pytest.raises(Refused, match="cannot use") as caught:
        await names(await open_s3(replace(s3_options, **change)))  # type: ignore[arg-type]  # as above
    assert "ROWVAULT_S3__" in caught.value.hint


async def test_a_store_that_is_not_there_is_unavailable(
    s3_options: S3Options, open_s3: OpenS3, unused_port: int
) -> None:
    backend = await open_s3(replace(s3_options, endpoint_url=f"http://127.0.0.1:{unused_port}"))
    for attempt in ATTEMPTS.values():
        with pytest.raises(Unavailable, match="the store cannot be reached") as caught:
            await attempt(backend)
        assert "ROWVAULT_S3__ENDPOINT_URL" in caught.value.hint


async def test_no_secret_is_in_any_text(s3_options: S3Options, open_s3: OpenS3) -> None:
    secrets = {"secret_access_key": "hunter1", "session_token": "hunter2"}
    endpoint = str(s3_options.endpoint_url).replace("//", "//user:hunter3@")
    texts: list[str] = []
    for options in (
        replace(s3_options, **secrets),  # type: ignore[arg-type]  # as above
        replace(s3_options, **secrets, endpoint_url=endpoint),  # type: ignore[arg-type]  # as above
        replace(s3_options, **secrets, endpoint_url=f" {endpoint}"),  # type: ignore[arg-type]  # as above
        replace(s3_options, **secrets, bucket="no-such-bucket"),  # type: ignore[arg-type]  # as above
    ):
        texts.append(repr(replace(options, endpoint_url=None)))
        try:
            await store(await open_s3(options), "object", b"bytes")
        except StorageError as error:
            texts += [error.message, error.hint, "".join(traceback.format_exception(error))]
    assert len(texts) == 4 + 3 * 4
    assert [text for text in texts if "hunter" in text] == []


async def test_keys_come_from_the_surroundings_where_none_are_given(
    s3_options: S3Options, open_s3: OpenS3, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", str(s3_options.access_key_id))
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", str(s3_options.secret_access_key))
    backend = await open_s3(replace(s3_options, access_key_id=None, secret_access_key=None))
    await store(backend, "object", b"bytes")
    assert await fetch(backend, "object") == b"bytes"


async def test_no_keys_anywhere_are_refused(
    s3_options: S3Options, open_s3: OpenS3, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("HOME", str(tmp_path))
    backend = await open_s3(replace(s3_options, access_key_id=None, secret_access_key=None))
    with pytest.raises(Refused, match="no keys") as caught:
        await names(backend)
    assert "ROWVAULT_S3__ACCESS_KEY_ID" in caught.value.hint


async def test_a_session_token_goes_with_every_request(
    meddler: Meddler, s3_options: S3Options, open_s3: OpenS3
) -> None:
    meddler.rule = lambda _: error(400, "InvalidToken")
    options = replace(s3_options, endpoint_url=meddler.url, session_token="the-token")
    with pytest.raises(Refused, match="session token is not valid"):
        await names(await open_s3(options))
    assert meddler.seen[0].headers["X-Amz-Security-Token"] == "the-token"


@pytest.mark.parametrize(
    ("style", "url"), [("path", "http://s3.test/storage-tests/"), ("virtual", "http://storage-tests.s3.test/")]
)
async def test_the_bucket_is_in_the_path_or_in_the_host_name(
    s3_options: S3Options, open_s3: OpenS3, style: Literal["path", "virtual"], url: str
) -> None:
    backend = await open_s3(replace(s3_options, endpoint_url="http://s3.test", addressing_style=style))
    signed = backend._client._client.generate_presigned_url
    assert (await signed("get_object", Params={"Bucket": s3_options.bucket, "Key": "key"})).startswith(url)


async def test_a_private_authority_is_trusted_where_its_certificate_is_given(
    s3_options: S3Options, open_s3: OpenS3, tmp_path: Path
) -> None:
    tls = make_certificate(tmp_path)
    async with Meddler(str(s3_options.endpoint_url), tls) as meddler:
        options = replace(s3_options, endpoint_url=meddler.url, ca_file=tmp_path / "certificate.pem")
        backend = await open_s3(options)
        await store(backend, "object", b"bytes")
        assert await fetch(backend, "object") == b"bytes"
        distrustful = await open_s3(replace(options, ca_file=None))
        with pytest.raises(Refused, match="TLS") as caught:
            await names(distrustful)
        assert "ROWVAULT_S3__CA_FILE" in caught.value.hint


def make_certificate(folder: Path) -> ssl.SSLContext:
    certificate, key = folder / "certificate.pem", folder / "key.pem"
    command = (
        "openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=127.0.0.1 -addext subjectAltName=IP:127.0.0.1"
    )
    subprocess.run([*command.split(), "-keyout", key, "-out", certificate], check=True, capture_output=True)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate, key)
    return context


async def test_the_factory_gives_a_backend_that_is_patient(s3_options: S3Options) -> None:
    backend = await open_patient(s3_options)
    await backend.create("object", b"bytes")
    assert await names(backend) == ["object"]
    await backend.close()
