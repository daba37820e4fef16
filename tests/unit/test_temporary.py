import subprocess
import sys
from pathlib import Path

import pytest

from jobs.exporting.files import refuse_unless_empty, staged
from jobs.temporary import temporary_folder

WORKING = """
import sys, time
from pathlib import Path
from jobs.exporting.files import staged
from jobs.temporary import temporary_folder
folder = Path(sys.argv[1])
with temporary_folder(folder) as made, staged(folder):
    (made / "held").write_text("held")
    print(made, flush=True)
    time.sleep(600)
"""


@pytest.fixture
def killed(tmp_path: Path) -> Path:
    """Where a process that was killed had two folders."""
    with subprocess.Popen([sys.executable, "-c", WORKING, tmp_path], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline().strip().startswith(str(tmp_path))
        process.kill()
    assert len(list(tmp_path.iterdir())) == 2
    return tmp_path


def test_a_folder_is_for_us_alone_and_goes_at_the_end(tmp_path: Path) -> None:
    with temporary_folder(tmp_path) as made:
        assert made.parent == tmp_path
        assert made.stat().st_mode & 0o777 == 0o700
        (made / "file").write_text("text")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_in_use_is_left_alone_by_others(tmp_path: Path) -> None:
    with temporary_folder(tmp_path) as ours:
        with temporary_folder(tmp_path) as others:
            assert ours != others
        assert ours.is_dir()


def test_what_a_killed_process_left_is_removed_by_the_next_that_needs_a_folder(killed: Path) -> None:
    with temporary_folder(killed) as made:
        assert [one.name for one in killed.iterdir() if not one.name.startswith(".")] == [made.name]


def test_what_a_killed_export_left_is_not_in_the_way_of_the_next_one(killed: Path) -> None:
    with temporary_folder(killed):
        pass
    refuse_unless_empty(killed, replace=False)
    with staged(killed) as staging:
        assert list(killed.iterdir()) == [staging.unfinished]
