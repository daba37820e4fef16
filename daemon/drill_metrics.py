"""The metrics of the last drill that this process held or, after a restart, found in the repository.

Before there was any there are no series, for no drill is neither a good nor a bad one.
"""

from collections.abc import Iterable, Iterator, Mapping

from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector


class DrillMetrics(Collector):
    """What is known of the last drill."""

    def __init__(self) -> None:
        self._success: bool | None = None
        self._seconds: Mapping[str, float] = {}
        self._objectives: Mapping[str, float] = {}

    def show(self, scenarios: Iterable[tuple[str, float, float]], *, success: bool) -> None:
        """A drill ended; of each scenario its name, how many seconds it took and may take."""
        measured = list(scenarios)
        self._success = success
        self._seconds = {name: seconds for name, seconds, _ in measured}
        self._objectives = {name: objective for name, _, objective in measured}

    def collect(self) -> Iterator[Metric]:
        """The series at this moment."""
        if self._success is None:
            return
        yield GaugeMetricFamily(
            "rowvault_drill_last_success", "1 if the last recovery drill succeeded, else 0.", value=self._success
        )
        yield _by_scenario(
            "rowvault_drill_duration_seconds", "How long recovery took in the last drill.", self._seconds
        )
        yield _by_scenario("rowvault_drill_objective_seconds", "How long recovery may take.", self._objectives)


def _by_scenario(name: str, meaning: str, values: Mapping[str, float]) -> Metric:
    family = GaugeMetricFamily(name, meaning, labels=["scenario"])
    for scenario, value in values.items():
        family.add_metric([scenario], value)
    return family
