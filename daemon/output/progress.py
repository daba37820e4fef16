"""How the progress of long work looks: on stderr, a bar on a terminal, else a line now and then."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.progress import BarColumn, DownloadColumn, Task, TaskID, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bars
from rich.table import Column
from rich.text import Text

from daemon.output.console import err
from jobs.progress import OnProgress, Progress

_PLAIN_SECONDS = 5.0


@contextmanager
def progress(*, quiet: bool) -> Iterator[OnProgress]:
    """Progress on stderr while the block runs: a bar on a terminal, else a line now and then; `quiet` for none."""
    if quiet or not err.is_terminal:
        yield _lines(quiet=quiet)
        return
    phase = TextColumn("{task.description}", table_column=Column(no_wrap=True, overflow="ellipsis"))
    columns = (phase, BarColumn(20), _Measure(), TimeRemainingColumn())
    with Bars(*columns, console=err, transient=True) as bars:
        yield _bars(bars)


class _Measure(DownloadColumn):
    """So much of so much, as bytes or as a number; nothing where there is no measure."""

    def render(self, task: Task) -> Text:
        """See `ProgressColumn.render`."""
        if task.total is None:
            return Text()
        if task.fields["counted"]:
            return Text(f"{int(task.completed):,}/{int(task.total):,}", style="progress.download")
        return super().render(task)


def _bars(bars: Bars) -> OnProgress:
    tasks: dict[str, TaskID] = {}

    def show(now: Progress) -> None:
        if now.phase not in tasks:
            for task in tasks.values():
                bars.update(task, visible=False)
            tasks[now.phase] = bars.add_task(now.phase, total=now.total or None, counted=now.counted)
        description = f"{now.phase} {now.table}" if now.table else now.phase
        bars.update(tasks[now.phase], completed=now.done, description=description)

    return show


def _lines(*, quiet: bool) -> OnProgress:
    said: dict[str, float] = {}

    def show(now: Progress) -> None:
        if not quiet and time.monotonic() > said.get(now.phase, -_PLAIN_SECONDS) + _PLAIN_SECONDS:
            said[now.phase] = time.monotonic()
            share = f" {100 * now.done // now.total} %" if now.total else ""
            err.print(Text(f"{now.phase}{share}"))

    return show
