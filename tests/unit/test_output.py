"""How results look: tables for people, JSON for scripts, progress on stderr."""

import json
from dataclasses import replace
from datetime import UTC, datetime
from io import StringIO

import pytest
from pydantic import JsonValue
from rich.console import Console
from rich.table import Table
from rich.text import Text

from daemon.output import progress as progress_output
from daemon.output import restore as restore_output
from daemon.output.advice import print_findings
from daemon.output.backups import backup_document, print_backup, print_list, print_verification
from daemon.output.console import as_bytes, print_error, print_json, print_table, table
from daemon.output.manifest import print_manifest
from daemon.output.progress import progress
from daemon.output.trail import print_entries
from jobs.checks.findings import Finding
from jobs.places.catalogue import ListedBackup
from jobs.progress import Progress
from jobs.results import BackupResult, PlaceOutcome, Problem, RestoreResult, TableOutcome, TableTouched, VerifyResult
from jobs.trail import TrailEntry
from tests.manifests import made_up

HOSTILE = "[red]a[/x] :warning: “ä”"
NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
Captured = pytest.CaptureFixture[str]


def problem(**other: str) -> Problem:
    return Problem("s3", "backups/x/data", "public.t", "sha256_stored", other.get("expected", "aa"), "bb")


def result(*problems: Problem) -> BackupResult:
    places = (PlaceOutcome("local", "committed"), PlaceOutcome("s3", "pending", f"no route to {HOSTILE}"))
    return BackupResult(
        id="b1",
        kind="full",
        state="warning",
        created_at=NOW,
        places=places,
        tables=(TableOutcome("public", HOSTILE, 1234567, 5_000_000, 999),),
        duration_seconds=1.25,
        verify_seconds=0.5,
        verification=VerifyResult("b1", "failed", problems, places),
        warnings=(f"a note on {HOSTILE}",),
    )


def listed(label: str = "", *, kept: bool = False) -> ListedBackup:
    places = (PlaceOutcome("local", "committed"), PlaceOutcome("s3", "unreachable"))
    return ListedBackup("b1", "full", "warning", label, NOW, NOW, places, 12, 3400, kept, None)


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.0 kB"),
        (1_500_000, "1.5 MB"),
        (2 * 10**9, "2.0 GB"),
        (10**16, "10000.0 TB"),
    ],
)
def test_sizes_are_written_as_people_read_them(count: int, text: str) -> None:
    assert as_bytes(count) == text


def test_a_backup_shows_tables_places_times_and_notes(capsys: Captured) -> None:
    print_backup(result())
    shown = capsys.readouterr().out
    assert f'public."{HOSTILE}"  1,234,567     5.0 MB   999 B' in shown
    assert f"s3: pending (no route to {HOSTILE})" in shown
    assert "committed after 1.2 s, verified in 0.5 s" in shown
    assert f"note: a note on {HOSTILE}" in shown


def test_tables_are_named_as_options_want_them(capsys: Captured) -> None:
    print_backup(replace(result(), tables=(TableOutcome("public", "Order.Items", 1, 2, 3),)))
    assert 'public."Order.Items"' in capsys.readouterr().out


def test_a_backup_as_json_has_problems_at_the_top() -> None:
    document = backup_document(result(problem()))
    assert [one["kind"] for one in document["problems"]] == ["sha256_stored"]
    assert "verification" not in document


def test_problems_are_shown_whole_however_long(capsys: Captured) -> None:
    print_verification(VerifyResult("b1", "failed", (problem(expected="a" * 300),)))
    assert "a" * 300 in capsys.readouterr().out


def test_the_list_shows_labels_literally_and_what_is_kept(capsys: Captured) -> None:
    print_list([listed(HOSTILE, kept=True)])
    shown = capsys.readouterr().out
    assert f"{HOSTILE} kept" in shown
    assert "local committed, s3 unreachable" in shown


def test_the_list_shows_which_slots_are_filled_and_until_when(capsys: Captured) -> None:
    daily = replace(listed(), tiers=("daily",), reasons=("daily",), kept_until=NOW)
    print_list([daily, replace(daily, reasons=("kept",), kept_until=None), listed()])
    shown = capsys.readouterr().out.splitlines()
    assert f"daily  {NOW:%Y-%m-%d %H:%M}" in shown[1]
    assert "released" in shown[2]
    assert "may go" in shown[3]


def test_an_empty_list_says_what_to_do(capsys: Captured) -> None:
    print_list([])
    assert capsys.readouterr().out == "no backups yet; take one with: rowvault backup\n"


def test_a_manifest_shows_what_when_and_of_which_database(capsys: Captured) -> None:
    print_manifest(made_up(label=HOSTILE).manifest)
    shown = capsys.readouterr().out
    assert f"label  {HOSTILE}" in shown
    assert "shop, PostgreSQL 18.1" in shown
    assert "public.Orders" in shown


def test_a_restore_names_its_target_literally(capsys: Captured) -> None:
    touched = (TableTouched("public.orders", "replace", inserted=1_234_567, deleted=5),)
    restore_output.print_restore(RestoreResult("b1", f"db:5432/{HOSTILE}", result().tables, touched, 2.0))
    shown = capsys.readouterr().out
    assert shown.endswith(f"restored b1 into db:5432/{HOSTILE} in 2.0 s\n")
    assert "1,234,567" in shown


def test_an_error_is_two_lines_on_stderr(capsys: Captured) -> None:
    print_error({"message": f"no {HOSTILE}", "hint": "do this"})
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == f"error: no {HOSTILE}\n  to do: do this\n"


def test_an_error_without_a_hint_is_one_line(capsys: Captured) -> None:
    print_error({"message": "no", "hint": ""})
    assert capsys.readouterr().err == "error: no\n"


def test_the_doctor_says_what_to_do_only_where_something_is_wrong(capsys: Captured) -> None:
    findings = [Finding("reach", "ok", "it answers", "nothing"), Finding("room", "problem", "full", "buy a disk")]
    print_findings(findings)
    assert capsys.readouterr().out == "ok  reach: it answers\nproblem  room: full\n      to do: buy a disk\n"


def test_json_has_times_in_utc_and_texts_as_they_are(capsys: Captured) -> None:
    print_json([listed(HOSTILE)])
    text = capsys.readouterr().out
    assert HOSTILE in text
    [document] = json.loads(text)
    assert document["created_at"] == "2026-01-02T03:04:05Z"
    assert document["places"][1] == {"name": "s3", "state": "unreachable", "error": None}


def test_what_has_no_json_form_is_refused() -> None:
    with pytest.raises(TypeError, match="object has no JSON form"):
        print_json(object())


def test_without_a_terminal_progress_is_a_line_for_each_phase_on_stderr(capsys: Captured) -> None:
    with progress(quiet=False) as on_progress:
        for done in range(0, 100, 25):
            on_progress(Progress("copied", done, 100))
        on_progress(Progress(f"restoring {HOSTILE}"))
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == f"copied 0 %\nrestoring {HOSTILE}\n"


@pytest.mark.parametrize(("counted", "said"), [(True, "3/1,100 "), (False, "0.0/1.1 kB ")])
def test_what_is_counted_is_not_told_as_bytes(counted: bool, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Console(file=StringIO(), force_terminal=True, width=120, color_system=None)
    monkeypatch.setattr(progress_output, "err", terminal)
    with progress(quiet=False) as on_progress:
        on_progress(Progress("comparing places", 3, 1_100, counted=counted))
    assert isinstance(terminal.file, StringIO)
    assert said in terminal.file.getvalue()


def test_progress_is_one_line_on_a_terminal_however_long_its_phase(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Console(file=StringIO(), force_terminal=True, width=80, color_system=None)
    monkeypatch.setattr(progress_output, "err", terminal)
    with progress(quiet=False) as on_progress:
        on_progress(Progress("recovering a random moment, as of 2026-11-30T16:35:53.849202+00:00"))
    assert isinstance(terminal.file, StringIO)
    shown = terminal.file.getvalue()
    assert "recovering a random" in shown
    assert "bytes" not in shown
    assert shown.count("\n") == 1  # where the bar ends


def test_quiet_progress_says_nothing(capsys: Captured) -> None:
    with progress(quiet=True) as on_progress:
        on_progress(Progress("copied", 1, 2))
    assert capsys.readouterr() == ("", "")


def test_what_is_found_alike_in_each_place_is_said_once(capsys: Captured) -> None:
    print_findings([Finding("encryption", "warning", "the newest is plain", "x", one) for one in ("local", "s3")])
    assert capsys.readouterr().out.count("the newest is plain") == 1


def printed(shown: Table, width: int = 60) -> list[str]:
    text = StringIO()
    print_table(shown, Console(file=text, width=width, markup=False, emoji=False))
    return text.getvalue().splitlines()


def test_on_a_narrow_terminal_no_id_is_cut() -> None:
    ids = [f"20260101T02000{digit}.000Z-incremental-0a1b2c" for digit in range(3)]
    shown = table("what there is", "id", "why", ">rows", "until")
    for backup_id in ids:
        shown.add_row(backup_id, Text(f"needed by {ids[0]} {HOSTILE}"), "", "2026-01-08")
    lines = printed(shown)
    assert lines[0] == "what there is"
    assert [line for line in lines if not line.startswith("    ")][1:] == ids
    assert max(len(line.rstrip()) for line in lines) <= 60
    words = " ".join(" ".join(lines[2:4]).split())
    assert words == f"why needed by {ids[0]} {HOSTILE} · until 2026-01-08"


def test_in_a_pipe_no_line_ends_in_blanks() -> None:
    shown = table("", "name", "meaning")
    shown.add_row("b1", "a long story")
    shown.add_row("b2", "")
    assert printed(shown) == ["name  meaning", "b1    a long story", "b2"]


def test_an_entry_of_the_trail_leaves_lists_of_records_to_json(capsys: Captured) -> None:
    manifests: list[JsonValue] = [{"place": "s3", "before": "a" * 64, "after": "b" * 64}] * 15
    entry = TrailEntry(7, "hash", NOW, "me", "erase", "success", None, {"tables": ["t"], "manifests": manifests})
    print_entries([entry])
    assert capsys.readouterr().out.endswith("tables (t), manifests 15, see --json\n")


def test_a_table_whose_last_column_alone_is_too_wide_folds_it() -> None:
    shown = table("", "name", "meaning")
    shown.add_row("b1", "word " * 30)
    lines = printed(shown)
    assert lines[0].split() == ["name", "meaning"]
    assert lines[1].startswith("b1    word word")
