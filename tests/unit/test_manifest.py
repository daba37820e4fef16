"""The description of a backup: it comes back as it was written, and no change of it goes unnoticed."""

import hashlib
import json
import subprocess
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel

import storage.manifest
from storage.errors import Corrupt, Misplaced
from storage.increments import Increment
from storage.manifest import Column, Manifest, NotCovered
from storage.manifest_file import dump_manifest, load_manifest
from storage.names import LABEL_BYTES, escape
from tests.manifests import ID, OTHER_ID, made_up

FORMAT = Path(storage.manifest.__file__).with_name("FORMAT.md").read_text()

MANIFEST = made_up().manifest
NAME = str(MANIFEST.name())
STORED = dump_manifest(MANIFEST)
BODY = STORED.rpartition(b' "sha256"')[0]


def signed(body: bytes) -> bytes:
    """A manifest whose own hash is right, whatever else it says."""
    return body + f' "sha256": "{hashlib.sha256(body).hexdigest()}"\n}}\n'.encode()


TEXTS = st.text(max_size=20)
COLUMNS = st.builds(Column, name=TEXTS, type=TEXTS, generated=st.booleans(), identity=st.booleans())


@st.composite
def manifests(draw: st.DrawFn) -> Manifest:
    """Manifests that say whatever a database can be made to say."""
    label = draw(TEXTS.filter(lambda text: len(escape(text)) <= LABEL_BYTES))
    manifest = made_up(draw(st.sampled_from([ID, OTHER_ID])), label).manifest
    (table,) = manifest.tables
    tables = [
        table.model_copy(
            update={"schema_name": draw(TEXTS), "name": draw(TEXTS), "columns": tuple(draw(st.lists(COLUMNS)))}
        )
        for _ in range(draw(st.integers(0, 3)))
    ]
    missing = NotCovered(
        schemas=draw(st.tuples(TEXTS)), tables=(), excluded_tables=(), large_objects=3, foreign_keys=()
    )
    source = manifest.source.model_copy(update={"database": draw(TEXTS), "token": draw(st.none() | TEXTS)})
    moments = st.datetimes(timezones=st.just(manifest.created_at.tzinfo))
    return manifest.model_copy(
        update={
            "tables": tuple(tables),
            "source": source,
            "not_covered": missing,
            "reason": draw(TEXTS),
            "finished_at": draw(moments),
            "warnings": draw(st.tuples(TEXTS, TEXTS)),
        }
    )


@settings(suppress_health_check=[HealthCheck.too_slow], max_examples=50)
@given(manifests())
def test_a_manifest_comes_back_as_it_was_written(manifest: Manifest) -> None:
    assert load_manifest(str(manifest.name()), dump_manifest(manifest)) == manifest


def test_writing_it_twice_gives_the_same_bytes() -> None:
    assert dump_manifest(load_manifest(NAME, STORED)) == STORED


@pytest.mark.parametrize("mask", [0x01, 0x20, 0x80])
def test_every_single_flipped_byte_is_found(mask: int) -> None:
    for position in range(len(STORED)):
        flipped = STORED[:position] + bytes([STORED[position] ^ mask]) + STORED[position + 1 :]
        with pytest.raises(Corrupt):
            load_manifest(NAME, flipped)


def test_every_truncation_is_found() -> None:
    for length in range(len(STORED)):
        with pytest.raises(Corrupt):
            load_manifest(NAME, STORED[:length])


@pytest.mark.parametrize("data", [b"", b"\n}\n", STORED + b"\n", STORED + STORED, b" " + STORED, STORED[:-3] + b"}"])
def test_what_was_added_or_is_something_else_is_found(data: bytes) -> None:
    with pytest.raises(Corrupt, match="was altered"):
        load_manifest(NAME, data)


def test_under_another_backups_name_it_is_misplaced() -> None:
    other = str(made_up(OTHER_ID).manifest.name())
    with pytest.raises(Misplaced, match=f"{OTHER_ID}.* belongs to another backup: {ID}"):
        load_manifest(other, STORED)


@pytest.mark.parametrize("change", [("~-~1~", "~-~2~"), ("~.json", "~label.json"), ("~-~", f"~{OTHER_ID}~")])
def test_under_a_name_that_says_other_things_it_is_misplaced(change: tuple[str, str]) -> None:
    with pytest.raises(Misplaced):
        load_manifest(NAME.replace(*change), STORED)


@pytest.mark.parametrize(
    "body",
    [
        b"{\n",
        b'{\n "format": 1,\n',
        BODY.replace(b'"format": 1', b'"format": 2'),
        BODY.replace(b"{", b'{\n "unheard_of": 1,', 1),
        b"[" * 100_000 + b"\n",
        b'[\n "a",\n',
    ],
)
def test_a_manifest_of_another_format_cannot_be_read(body: bytes) -> None:
    with pytest.raises(Corrupt, match="cannot be read by this version"):
        load_manifest(NAME, signed(body))


def test_head_and_sha256sum_check_it(tmp_path: Path) -> None:
    path = tmp_path / "manifest.json"
    path.write_bytes(STORED)
    printed = subprocess.run(f"head -n -2 {path} | sha256sum", shell=True, capture_output=True, check=True, text=True)
    assert printed.stdout.split()[0] == json.loads(STORED)["sha256"]


def test_it_is_plain_json_that_names_every_object_once() -> None:
    names = [stored.name for stored in MANIFEST.objects()]
    assert len(names) == len(set(names)) == 6
    assert all(json.dumps(name).encode() in STORED for name in names)


def test_its_name_holds_the_sums_over_its_tables() -> None:
    assert MANIFEST.name().rows == MANIFEST.rows == 1
    assert MANIFEST.name().bytes_stored == MANIFEST.bytes_stored == sum(map(len, made_up().objects.values()))


def test_the_format_document_names_every_field() -> None:
    fields = [*fields_of(Manifest), *fields_of(Increment)]
    missing = [f"{model.__name__}.{name}" for model, name in fields if f"`{name}`" not in FORMAT]
    assert missing == []


def fields_of(model: type[BaseModel]) -> Iterator[tuple[type[BaseModel], str]]:
    for name, field in model.model_fields.items():
        yield model, field.alias or name
        for inner in models_in(field.annotation):
            yield from fields_of(inner)


def models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and not isinstance(annotation, types.GenericAlias):
        if issubclass(annotation, BaseModel):
            yield annotation
    elif get_origin(annotation) is not Literal:
        for argument in get_args(annotation):
            yield from models_in(argument)
