"""How a bucket is reached, with which keys, and what is said when it cannot be: what, where, and what to do."""

import json
import socket
import ssl
import subprocess
import traceback
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import pytest
from botocore.utils import parse_timestamp

from storage.backends.factory import open_s3 as open_patient
from storage.backends.protocol import Backend
from storage.backends.s3 import S3Options
from storage.backends.s3_client import moment
from storage.backends.s3_options import Keeping
from storage.errors import Refused, StorageError, Unavailable
from tests.seaweed import DOMAIN
from tests.storage.conftest import OpenS3
from tests.storage.helpers import MIB, fetch, names, payload, store, unfinished
from tests.storage.meddler import Meddler, Reply, Request, error


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


async def test_keys_come_from_the_role_of_the_instance(
    s3_options: S3Options, open_s3: OpenS3, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The instance's metadata service, which Amazon runs at a fixed address and others let be named."""
    keys = {
        "AccessKeyId": s3_options.access_key_id,
        "SecretAccessKey": s3_options.secret_access_key,
        "Token": "the-token",
        "Expiration": "2999-01-01T00:00:00Z",
        "Code": "Success",
    }

    def metadata(request: Request) -> Reply:
        return Reply(200, json.dumps(keys) if request.path.endswith("/the-role") else "the-role")

    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    async with Meddler("", rule=metadata) as service, Meddler(str(s3_options.endpoint_url)) as meddler:
        meddler.rule = lambda _: error(400, "InvalidToken")
        monkeypatch.setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", service.url)
        options = replace(s3_options, endpoint_url=meddler.url, access_key_id=None, secret_access_key=None)
        with pytest.raises(Refused, match="session token is not valid"):
            await names(await open_s3(options))
    assert meddler.seen[0].headers["X-Amz-Security-Token"] == "the-token"
    assert f"Credential={s3_options.access_key_id}/" in meddler.seen[0].headers["Authorization"]


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


async def test_a_bucket_in_the_host_name_is_reached(
    s3_options: S3Options, open_s3: OpenS3, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: set[str] = set()
    look_up = socket.getaddrinfo

    def here(host: str, *rest: Any, **more: Any) -> Any:
        asked.add(host)
        return look_up("127.0.0.1", *rest, **more)

    monkeypatch.setattr(socket, "getaddrinfo", here)
    endpoint = str(s3_options.endpoint_url).replace("127.0.0.1", DOMAIN)
    backend = await open_s3(replace(s3_options, endpoint_url=endpoint, addressing_style="virtual"))
    await store(backend, "object", b"bytes")
    assert await fetch(backend, "object") == b"bytes"
    assert await names(backend) == ["object"]
    assert asked == {f"{s3_options.bucket}.{DOMAIN}"}


@pytest.mark.parametrize("size", [1000, 9 * MIB])
async def test_a_store_encrypts_what_it_is_asked_to(s3_options: S3Options, open_s3: OpenS3, size: int) -> None:
    backend = await open_s3(replace(s3_options, sse="AES256"))
    await store(backend, "object", payload(size))
    await backend.copy("object", "copy")
    for name in ("object", "copy"):
        assert (await backend._client.head(name))["ServerSideEncryption"] == "AES256"
        assert await fetch(backend, name) == payload(size)


async def test_a_class_of_storage_is_asked_for_by_name(s3_options: S3Options, open_s3: OpenS3) -> None:
    cold = Keeping(lambda name: name.startswith("cold/"), storage_class="STANDARD_IA")
    backend = await open_s3(replace(s3_options, keepings=(cold,)))
    for name, size in (("warm/object", 1000), ("cold/object", 1000), ("cold/large", 9 * MIB)):
        await store(backend, name, payload(size))
    await backend.copy("warm/object", "cold/copy")
    classes = {name: (await backend._client.head(name)).get("StorageClass") for name in await names(backend)}
    assert classes.pop("warm/object") is None
    assert set(classes.values()) == {"STANDARD_IA"}
    assert len(classes) == 3


async def test_a_key_to_encrypt_with_goes_with_every_request_that_begins_an_object(
    meddler: Meddler, s3_options: S3Options, open_s3: OpenS3
) -> None:
    """The server knows no such keys, so the requests are looked at instead."""

    meddler.rule = lambda request: error(403, "AccessDenied") if request.method != "HEAD" else None
    await store(await open_s3(s3_options), "there", b"bytes")
    options = replace(s3_options, endpoint_url=meddler.url, sse="aws:kms", sse_kms_key_id="the-key")
    backend = await open_s3(options)
    attempts: tuple[Callable[[], Awaitable[object]], ...] = (
        lambda: store(backend, "small", b"bytes"),
        lambda: store(backend, "large", payload(9 * MIB)),
        lambda: backend.create("new", b"bytes"),
        lambda: backend.copy("there", "copy"),
    )
    for attempt in attempts:
        with pytest.raises(Refused, match="access is denied"):
            await attempt()
    sent = [request.headers for request in meddler.seen if request.method != "HEAD"]
    assert len(sent) == 4
    for headers in sent:
        assert headers["x-amz-server-side-encryption"] == "aws:kms"
        assert headers["x-amz-server-side-encryption-aws-kms-key-id"] == "the-key"


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


@pytest.mark.parametrize(
    "text",
    ["2026-11-30T01:02:03.004Z", "2026-11-30T01:02:03Z", "Mon, 30 Nov 2026 01:02:03 GMT", 1764464523, "2026-11-30"],
)
def test_times_are_read_as_botocore_reads_them(text: Any) -> None:
    assert moment(text) == parse_timestamp(text)
