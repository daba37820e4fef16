"""How anything a database may be called becomes an object's name, and comes back."""

import re
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from storage.backends.naming import is_name
from storage.errors import Corrupt
from storage.names import (
    LABEL_BYTES,
    BadLabel,
    ManifestName,
    backup_prefix,
    check_label,
    check_reason,
    data_object,
    escape,
    id_kind,
    id_moment,
    is_backup_id,
    is_manifest_name,
    new_backup_id,
    revised_object,
    unescape,
)
from tests.manifests import ID, OTHER_ID

LONGEST_COMPONENT = 230
MOMENTS = st.datetimes(datetime(2000, 1, 1), datetime(2999, 1, 1), timezones=st.just(UTC))
LABELS = st.text().filter(lambda label: len(escape(label)) <= LABEL_BYTES)
KINDS = st.sampled_from(["full", "incremental", "archive"])
NO_IDS = (
    *("", "latest", "20260102T030405.678Z-full-0a1b2", f"{ID} ", f"{ID}/..", ID.upper(), ID.replace("full", "half")),
    *(ID.replace("20260102", "20260230"), ID.replace("T03", "T25"), ID.replace("2026", "٢٠٢٦"), f"{ID}\n"),
)
NO_MANIFESTS = (
    *("manifests/README", f"manifests/{ID}.json", f"{ID}~-~1~2~.json", f"manifests/{ID}~-~1~2~.json.bak"),
    *(f"manifests/{ID}~-~01~2~.json", f"manifests/{ID}~-~1~+2~.json", f"manifests/{ID}~-~1~2~a=2f.json"),
    *(f"manifests/{ID}~-~1~2~=FF.json", f"manifests/{ID}~-~1~2~a~b.json", f"manifests/{ID}~-~1_0~2~.json"),
    *(f"manifests/{ID.replace('T03', 'T25')}~-~1~2~.json", f"manifests/x/{ID}~-~1~2~.json"),
)


@given(st.text())
@example(".")
@example("..")
@example("=2E")
@example("%2E")
@example("~")
@example("a/../b\\c:d\0\n")
def test_any_text_is_had_back_from_its_escaped_form(text: str) -> None:
    assert unescape(escape(text)) == text


@given(st.text(min_size=1))
@example(".")
@example("..")
@example("...")
def test_an_escaped_text_is_one_component_of_safe_characters(text: str) -> None:
    escaped = escape(text)
    assert re.fullmatch(r"[A-Za-z0-9._=-]+", escaped)
    assert escaped not in {".", ".."}
    assert is_name(escaped)


@given(st.text(), st.text())
@example("a.b", "a=2Eb")
@example("Orders", "orders")
@example("e\u0301", "é")
def test_different_texts_stay_different(one: str, other: str) -> None:
    assert (escape(one) == escape(other)) == (one == other)


def test_the_format_document_says_how_texts_are_escaped() -> None:
    assert escape("a.b_c-9Z") == "a.b_c-9Z"
    assert escape("a b/é~=%") == "a=20b=2F=C3=A9=7E=3D=25"
    assert (escape("."), escape("..")) == ("=2E", "=2E=2E")


@pytest.mark.parametrize("name", ["🦄" * 15 + "abc", "語" * 21, "/" * 63, "~" * 63])
def test_the_longest_postgresql_names_are_components(name: str) -> None:
    assert len(name.encode()) == 63
    assert len(escape(name)) <= 189 < LONGEST_COMPONENT


def test_a_table_is_a_folder_of_its_own_below_its_schema() -> None:
    assert data_object(ID, "sales", "Line Items", 3, 0) == f"backups/{ID}/data/sales/Line=20Items/00003-000.copy.zst"
    assert data_object(ID, "a", "b/c", 0, 0) != data_object(ID, "a/b", "c", 0, 0)


@given(st.integers(0, 99_999), st.integers(0, 999), st.integers(0, 99_999), st.integers(0, 999))
def test_objects_sort_by_part_and_piece(part: int, piece: int, other_part: int, other_piece: int) -> None:
    names = [data_object(ID, "s", "t", part, piece), data_object(ID, "s", "t", other_part, other_piece)]
    assert (names[0] < names[1]) == ((part, piece) < (other_part, other_piece))


@given(KINDS, KINDS, MOMENTS, MOMENTS)
def test_ids_sort_by_moment(kind: str, other_kind: str, moment: datetime, other: datetime) -> None:
    if abs(moment - other) >= timedelta(milliseconds=1):
        assert (new_backup_id(kind, moment) < new_backup_id(other_kind, other)) == (moment < other)


@given(KINDS, MOMENTS)
def test_an_id_carries_its_moment_and_kind(kind: str, moment: datetime) -> None:
    backup = new_backup_id(kind, moment)
    assert is_backup_id(backup)
    assert is_name(backup_prefix(backup).rstrip("/"))
    assert id_kind(backup) == kind
    assert timedelta(0) <= moment - id_moment(backup) < timedelta(milliseconds=1)
    assert id_moment(backup).tzinfo is not None


def test_two_ids_of_one_moment_differ() -> None:
    moment = datetime(2026, 1, 2, tzinfo=UTC)
    assert new_backup_id("full", moment) != new_backup_id("full", moment)


@pytest.mark.parametrize("text", NO_IDS)
def test_what_is_no_id_is_told(text: str) -> None:
    assert not is_backup_id(text)
    with pytest.raises(Corrupt):
        id_moment(text)


@given(KINDS, MOMENTS, st.none() | st.just(OTHER_ID), st.integers(0, 2**63), st.integers(0, 2**63), LABELS)
def test_a_manifest_name_holds_what_a_listing_shows(
    kind: str, moment: datetime, base: str | None, rows: int, stored: int, label: str
) -> None:
    name = ManifestName(new_backup_id(kind, moment), base, rows, stored, label)
    assert ManifestName.parse(str(name)) == name
    assert is_name(str(name))
    assert len(str(name).removeprefix("manifests/")) <= LONGEST_COMPONENT


@given(st.text(alphabet=st.sampled_from("0123456789TZ.-~=full_abc/manifests.json"), max_size=100))
def test_a_name_is_a_manifest_name_only_if_it_is_written_back_the_same(text: str) -> None:
    if is_manifest_name(text):
        assert str(ManifestName.parse(text)) == text


@pytest.mark.parametrize("name", NO_MANIFESTS)
def test_what_is_no_manifest_name_is_told(name: str) -> None:
    assert not is_manifest_name(name)
    with pytest.raises(Corrupt, match="not the name of a manifest"):
        ManifestName.parse(name)


def test_a_label_may_be_90_bytes_long_once_escaped() -> None:
    for label in ("", "x" * 90, "🦄" * 7, "before the migration"):
        assert check_label(label) == label
    for label in ("x" * 91, "🦄" * 8):
        with pytest.raises(BadLabel, match="bytes as a name, 90 is the most"):
            check_label(label)


def test_a_label_that_is_not_utf_8_is_refused() -> None:
    with pytest.raises(BadLabel, match="not UTF-8"):
        check_label("caf\udce9")


def test_a_reason_that_is_not_utf_8_is_refused() -> None:
    assert check_reason("the café's migration") == "the café's migration"
    with pytest.raises(BadLabel, match="not UTF-8"):
        check_reason("caf\udce9")


def test_a_later_revision_has_a_name_of_its_own() -> None:
    first = ManifestName(ID, None, 7, 9, "a.b")
    later = replace(first, revision=3)
    assert str(later) == str(first).removesuffix(".json") + "~r3.json"
    assert ManifestName.parse(str(later)) == later
    for other in ("~r0", "~r03", "~3", "~r", "~r3~r3", "~rx"):
        assert not is_manifest_name(str(first).removesuffix(".json") + f"{other}.json")


def test_what_a_later_revision_writes_lies_beside_what_it_takes_the_place_of() -> None:
    name = data_object(ID, "public", "a000.copy.zst", 3, 0)
    revised = revised_object(f"{name}.age", ID, 1, 2)
    assert revised == f"{backup_prefix(ID)}r1/data/public/a000.copy.zst/00003-002.copy.zst"
    assert revised_object(revised, ID, 12, 0) == f"{backup_prefix(ID)}r12/data/public/a000.copy.zst/00003-000.copy.zst"
