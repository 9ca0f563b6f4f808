"""The status of a volume on which nothing has happened."""

from earmark.record import throughput
from earmark.watch import forecast
from earmark.watch import status as status_module
from earmark.watch.status import Status

EMPTY = Status(
    observed_at="2026-11-24T10:00:00+00:00",
    source="/source",
    checked_at=None,
    problem=None,
    archives=dict.fromkeys(status_module.STATES, 0),
    oldest_waiting_archive=None,
    oldest_waiting_seconds=0.0,
    quarantined_count=0,
    given_up=None,
    finished=throughput.Finished(24.0, 0, 0, 0, 0, 0, 0, 0),
    rate=throughput.Rate(6.0, 0.0, 0.0, 0.0, 0),
    driver=None,
    jobs=[],
    running=[],
    slurm=status_module.Slurm(False, None, None, None),
    database=status_module.Database(False, "down"),
    review=forecast.Forecast(
        *(200, "2026-11-24T12:00:00+01:00", "Europe/Zurich", 1.0, None, None, None),
        *(6.0, None, None, "unknown", "nothing"),
    ),
    room=status_module.Room(1, 50.0, [], "half full"),
    not_checked=None,
    meaningless=None,
)
