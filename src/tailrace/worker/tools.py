"""What a worker's jobs are carried out with."""

from dataclasses import dataclass, field

from tailrace.schemas import RequestLimits
from tailrace.tasks import App, Jobs
from tailrace.telemetry import metrics_catalogue as told
from tailrace.telemetry.metrics_counts import Counts
from tailrace.worker.upstreams import Upstreams


@dataclass(frozen=True, slots=True)
class Tools:
    """One set for a worker process."""

    upstreams: Upstreams
    app: App = field(default_factory=App)
    """The tasks that this worker knows."""
    jobs: Jobs | None = None
    """A client, for tasks that submit other jobs."""
    limits: RequestLimits = field(default_factory=RequestLimits)
    counts: Counts = field(default_factory=lambda: Counts(told.WORKER))
    """What the process tells of itself."""
