"""How a person says which database to restore into."""

from pathlib import Path

import pytest

from daemon.outcomes import UsageError, describe
from daemon.targets import read_dsn

DSN = "postgresql://app:hunter2@db.example:5432/app"


def read(text: str) -> tuple[str, list[str]]:
    """The DSN, and what was warned of."""
    warnings: list[str] = []
    return read_dsn(text, warnings.append), warnings


@pytest.mark.parametrize("dsn", ["postgresql://app@db/app", "postgres://db", "postgresql:///app?host=/run/postgresql"])
def test_a_dsn_without_a_password_is_taken_as_it_is(dsn: str) -> None:
    assert read(dsn) == (dsn, [])


@pytest.mark.parametrize("dsn", [DSN, "postgresql://app@db/app?password=hunter2"])
def test_a_password_typed_in_it_works_with_a_warning_that_does_not_show_it(dsn: str) -> None:
    found, [warning] = read(dsn)
    assert found == dsn
    assert "process list" in warning
    assert "hunter2" not in warning


def test_a_variable_holds_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TARGET", DSN)
    assert read("env:TARGET") == (DSN, [])


def test_a_file_holds_it(tmp_path: Path) -> None:
    file = tmp_path / "target"
    file.write_text(f"{DSN}\n")
    assert read(f"@{file}") == (DSN, [])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "--to wants a DSN"),
        ("db.example", "--to wants a DSN"),
        ("mysql://db", "--to wants a DSN"),
        ("env:NOWHERE", "--to env:NOWHERE: that variable is not set"),
        ("env:", "--to env:: that variable is not set"),
        ("@/no/such/file", "--to @/no/such/file: the file cannot be read"),
        ("@/", "the file cannot be read"),
    ],
)
def test_anything_else_is_a_usage_error(text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        read(text)


def test_a_file_of_other_bytes_is_a_usage_error(tmp_path: Path) -> None:
    file = tmp_path / "target"
    file.write_bytes(b"\xff\xfe")
    with pytest.raises(UsageError, match="cannot be read"):
        read(f"@{file}")


@pytest.mark.parametrize("text", ["psql://app:hunter2@db", f"env:{DSN}", "env:UNFIT"])
def test_no_message_shows_a_password(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UNFIT", "host=db password=hunter2")
    with pytest.raises(UsageError) as caught:
        read(text)
    assert "hunter2" not in str(describe(caught.value))
