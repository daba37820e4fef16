"""What Prometheus scrapes: counters of what happened, and gauges read from the status at each scrape.

One registry of its own, no global state. Every series of a registered job and of a known place is there from
the start: counters at 0, and times of what never happened at 0 too, so that an alert on
`time() - …_timestamp_seconds` fires for a job that never succeeded (Prometheus, "Instrumentation", on
avoiding missing metrics). A job that no longer runs has no next time, and that series is absent.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import datetime

from prometheus_client import CollectorRegistry, Counter, Histogram, ProcessCollector
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from daemon.drill_metrics import DrillMetrics
from daemon.outcomes import Outcome
from jobs.prune import PruneResult
from jobs.results import BackupResult, TableOutcome, VerifyResult
from jobs.status import Facts, Status

OUTCOMES: tuple[Outcome, ...] = ("success", "warning", "failed", "refused")
# A database can hold any number of tables, a Prometheus cannot: the largest are shown, and how many are not.
SHOWN_TABLES = 1000
_DURATIONS = (1, 5, 15, 60, 300, 900, 1800, 3600, 7200, 14400, 21600)


class Metrics:
    """All metrics of the process. Called from the event loop only."""

    def __init__(self, version: str, jobs: Iterable[str], places: Iterable[str], status: Callable[[], Status]) -> None:
        """`status` is asked at each scrape, and must answer from memory."""
        self.registry = CollectorRegistry()
        self._tables = _Tables()
        self.drills = DrillMetrics()
        self._runs = Counter(
            "rowvault_job_runs_total", "Runs of a job that ended.", ["job", "outcome"], registry=self.registry
        )
        self._durations = Histogram(
            "rowvault_job_duration_seconds",
            "How long a job ran.",
            ["job"],
            buckets=_DURATIONS,
            registry=self.registry,
        )
        self._verification_failures = Counter(
            "rowvault_verification_failures_total",
            "Verifications that found a problem in a place.",
            ["place"],
            registry=self.registry,
        )
        self._pruned = Counter(
            "rowvault_pruned_backups_total", "Backups that retention removed.", ["place"], registry=self.registry
        )
        self._prune_failures = Counter(
            "rowvault_prune_failures_total",
            "Times that retention could not be carried out in a place.",
            ["place"],
            registry=self.registry,
        )
        self._from_the_start(jobs, places)
        self.registry.register(self._tables)
        self.registry.register(self.drills)
        self.registry.register(_Now(version, status))
        ProcessCollector(registry=self.registry)

    def observe_run(self, job: str, outcome: Outcome, seconds: float) -> None:
        """A run of `job` ended, after so many seconds."""
        self._runs.labels(job, outcome).inc()
        self._durations.labels(job).observe(seconds)

    def observe_backup(self, result: BackupResult) -> None:
        """A backup ended; one that failed leaves the tables as the last good one had them.

        Counts the verification that the result carries, too.
        """
        if result.state != "failed":
            self.show_tables(result.kind, result.created_at, result.tables)
        if result.verification is not None:
            self.observe_verification(result.verification)

    def observe_verification(self, result: VerifyResult) -> None:
        """A verification ended: a place in which it found problems counts once."""
        for place in {problem.place for problem in result.problems}:
            self._verification_failures.labels(place).inc()

    def observe_prune(self, result: PruneResult) -> None:
        """Retention was carried out, in part perhaps."""
        for row in result.doing("removed"):
            self._pruned.labels(row.place).inc()
        for place in result.failed:
            self._prune_failures.labels(place.name).inc()

    def show_tables(self, kind: str, created_at: datetime, tables: Iterable[TableOutcome]) -> None:
        """Show the tables of the newest backup of a kind; after a restart, from its manifest."""
        self._tables.show(kind, created_at, tables)

    def render(self, accept: str = "") -> tuple[bytes, str]:
        """The exposition, and its content type, in the format that an Accept header asks for."""
        encode, content_type = choose_encoder(accept)
        return encode(self.registry), content_type

    def _from_the_start(self, jobs: Iterable[str], places: Iterable[str]) -> None:
        for job in jobs:
            self._durations.labels(job)
            for outcome in OUTCOMES:
                self._runs.labels(job, outcome)
        for place in places:
            for counter in (self._verification_failures, self._pruned, self._prune_failures):
                counter.labels(place)


class _Tables(Collector):
    """The tables of the newest backup of each kind; one that is no longer in it has no series any more."""

    def __init__(self) -> None:
        self._shown: dict[str, tuple[float, list[TableOutcome]]] = {}
        self._left_out: dict[str, int] = {}

    def show(self, kind: str, created_at: datetime, tables: Iterable[TableOutcome]) -> None:
        largest_first = sorted(tables, key=lambda table: table.bytes_raw, reverse=True)
        self._shown[kind] = created_at.timestamp(), largest_first[:SHOWN_TABLES]
        self._left_out[kind] = max(0, len(largest_first) - SHOWN_TABLES)

    def collect(self) -> Iterator[Metric]:
        labels = ["schema", "table", "kind"]
        rows = GaugeMetricFamily("rowvault_table_backup_rows", "Rows of a table in the newest backup.", labels=labels)
        raw = GaugeMetricFamily(
            "rowvault_table_backup_bytes",
            "Bytes of a table in the newest backup, as COPY text.",
            labels=labels,
        )
        stored = GaugeMetricFamily(
            "rowvault_table_backup_stored_bytes",
            "Bytes of a table in the newest backup, as stored.",
            labels=labels,
        )
        at = GaugeMetricFamily(
            "rowvault_table_last_success_timestamp_seconds",
            "When the newest backup that holds a table was taken.",
            labels=labels,
        )
        for kind, (created_at, tables) in self._shown.items():
            for table in tables:
                values = [table.schema, table.name, kind]
                rows.add_metric(values, table.rows)
                raw.add_metric(values, table.bytes_raw)
                stored.add_metric(values, table.bytes_stored)
                at.add_metric(values, created_at)
        left_out = GaugeMetricFamily(
            "rowvault_tables_without_series",
            "Smallest tables of the newest backup that are left out of the series by table.",
            labels=["kind"],
        )
        for kind, number in self._left_out.items():
            left_out.add_metric([kind], number)
        yield from (rows, raw, stored, at, left_out)


class _Now(Collector):
    """What is true at the moment of the scrape."""

    def __init__(self, version: str, status: Callable[[], Status]) -> None:
        self._version = version
        self._status = status

    def describe(self) -> list[Metric]:
        """Nothing beforehand: registering must not ask for a status yet."""
        return []

    def collect(self) -> Iterator[Metric]:
        status = self._status()
        yield _gauge("rowvault_build_info", "Version of Rowvault.", "version", {self._version: 1})
        yield GaugeMetricFamily("rowvault_healthy", "1 while every objective is kept, else 0.", value=status.healthy)
        yield GaugeMetricFamily(
            "rowvault_recovery_point_age_seconds",
            "Age of the newest moment that can be restored; without any, time since the first start.",
            value=status.recovery_point_age_seconds,
        )
        yield _gauge("rowvault_objective_seconds", "What is to be kept.", "objective", _objectives(status))
        yield from _jobs(status.facts)
        yield from _places(status.facts)
        yield GaugeMetricFamily(
            "rowvault_offsite_backlog_backups",
            "Backups whose off-site copy is still to be made.",
            value=status.facts.offsite_backlog,
        )
        yield GaugeMetricFamily(
            "rowvault_uncovered_tables",
            "Tables of the database that no backup covers.",
            value=status.facts.uncovered_tables,
        )
        if (lag := status.facts.slot_lag_bytes) is not None:
            yield GaugeMetricFamily(
                "rowvault_replication_slot_lag_bytes", "WAL that Rowvault's replication slot holds back.", value=lag
            )


def _jobs(facts: Facts) -> Iterator[Metric]:
    jobs = facts.jobs.items()
    yield _gauge(
        "rowvault_job_last_success_timestamp_seconds",
        "When a job last succeeded; 0: never.",
        "job",
        {name: _timestamp(job.last_success) for name, job in jobs},
    )
    yield _gauge(
        "rowvault_job_last_failure_timestamp_seconds",
        "When a job last failed; 0: never.",
        "job",
        {name: _timestamp(job.last_failure) for name, job in jobs},
    )
    yield _gauge(
        "rowvault_job_running_seconds",
        "How long a job has been running; 0: it is not.",
        "job",
        {name: (facts.now - job.running_since).total_seconds() if job.running_since else 0 for name, job in jobs},
    )
    yield _gauge(
        "rowvault_job_next_run_timestamp_seconds",
        "When a job runs next.",
        "job",
        {name: _timestamp(job.next_run) for name, job in jobs if job.next_run},
    )


def _places(facts: Facts) -> Iterator[Metric]:
    places = facts.places.items()
    yield _gauge(
        "rowvault_place_reachable",
        "1 while a place answers, else 0.",
        "place",
        {name: place.reachable for name, place in places if place.reachable is not None},
    )
    yield _gauge(
        "rowvault_storage_free_bytes",
        "Room left in a place that has such a figure.",
        "place",
        {name: place.free_bytes for name, place in places if place.free_bytes is not None},
    )


def _objectives(status: Status) -> dict[str, float]:
    rpo, rto = status.recovery_point_objective_seconds, status.facts.rto
    return ({} if rpo is None else {"rpo": rpo}) | ({} if rto is None else {"rto": rto.total_seconds()})


def _gauge(name: str, meaning: str, label: str, values: Mapping[str, float]) -> Metric:
    family = GaugeMetricFamily(name, meaning, labels=[label])
    for key, value in values.items():
        family.add_metric([key], value)
    return family


def _timestamp(moment: datetime | None) -> float:
    return moment.timestamp() if moment else 0.0
