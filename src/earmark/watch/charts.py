"""The daily report's figures, as SVG that stands in the page."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

from markupsafe import Markup
from matplotlib.dates import DateFormatter

from earmark.plots import BLUE, GREY, ORANGE, figure, svg
from earmark.watch.forecast import Forecast


def towards_noon(by_hour: Sequence[int] | None, review: Forecast, now: datetime) -> Markup | None:
    """Flagged clips of the last 24 hours, and the projection until noon.

    Args:
        by_hour: Clips flagged in each of the last 24 hours, the latest one last.
        review: The projection.
        now: When both were told.

    Returns:
        The figure; None if the database did not answer.
    """
    if by_hour is None or review.waiting_at_noon_count is None or review.projected_count is None:
        return None
    zone = ZoneInfo(review.timezone)
    times = [(now - timedelta(hours=24 - n)).astimezone(zone) for n in range(25)]
    total, sums = 0, [0]
    for count in by_hour:
        total += count
        sums.append(total)
    noon = datetime.fromisoformat(review.next_noon)
    drawing, axes = figure(3.2)
    axes.step(times, sums, color=BLUE, where="post", label="flagged in the last 24 hours")
    axes.plot(
        [times[-1], noon],
        [review.waiting_at_noon_count, review.projected_count],
        color=ORANGE,
        linestyle="--",
        marker="o",
        label="waiting: now, and to be expected at noon",
    )
    axes.axhline(review.target_count, color=GREY, linewidth=1)
    axes.annotate(
        f"target {review.target_count}",
        (times[0], review.target_count),
        xytext=(2, 3),
        textcoords="offset points",
        color=GREY,
    )
    axes.axvline(noon, color=GREY, linewidth=1, linestyle=":")
    axes.set_ylim(bottom=0)
    axes.set_ylabel("clips")
    clock: Any = DateFormatter
    axes.xaxis.set_major_formatter(clock("%H:%M", tz=zone))
    axes.legend(frameon=False, loc="upper left", bbox_to_anchor=(0, 1.22), ncols=2)
    return svg(
        drawing,
        f"{total} clips flagged in 24 hours; {review.waiting_at_noon_count} of those that wait "
        f"stay until noon, {review.projected_count} of {review.target_count} expected then",
    )


def by_hour(clips: Sequence[int]) -> Markup:
    """Clips finished in each of the last hours.

    Args:
        clips: The latest hour last.
    """
    drawing, axes = figure(2.2)
    axes.bar(range(-len(clips), 0), clips, align="edge", width=0.9, color=BLUE)
    axes.set_xlabel("hours ago")
    axes.set_xticks(range(-len(clips), 1, 6), [str(n) for n in range(len(clips), -1, -6)])
    axes.set_ylabel("clips")
    return svg(drawing, f"Clips finished in each of the last hours, the latest last: {list(clips)}")


def flag_rates(rates: Sequence[tuple[str, float | None, float | None]]) -> Markup | None:
    """How often policies flag: the last day, and the days before.

    Args:
        rates: Category, share of the last day's clips, and of those of the days before.

    Returns:
        The figure; None if there is none to show.
    """
    known = [rate for rate in rates if rate[1] is not None or rate[2] is not None][::-1]
    if not known:
        return None
    drawing, axes = figure(0.9 + 0.35 * len(known))
    for row, (_, today, before) in enumerate(known):
        if today is not None and before is not None:
            axes.plot([100 * before, 100 * today], [row, row], color=GREY, linewidth=1)
        if before is not None:
            axes.plot(100 * before, row, "o", color=GREY, markerfacecolor="white")
        if today is not None:
            axes.plot(100 * today, row, "o", color=BLUE)
    axes.plot([], [], "o", color=BLUE, label="last 24 hours")
    axes.plot([], [], "o", color=GREY, markerfacecolor="white", label="7 days before")
    axes.legend(frameon=False, loc="lower left", bbox_to_anchor=(0, 1.0), ncols=2)
    axes.set_yticks(range(len(known)), [category for category, _, _ in known])
    axes.set_ylim(-0.6, len(known) - 0.4)
    axes.set_xlim(left=0)
    axes.set_xlabel("flagged, % of clips")
    told = "; ".join(f"{name}: {_percent(now)}, before {_percent(b)}" for name, now, b in rates)
    return svg(drawing, f"Share of clips that each policy flags. {told}")


def _percent(share: float | None) -> str:
    return "unknown" if share is None else f"{share:.2%}"
