"""The calibration plot."""

from collections.abc import Mapping, Sequence

from markupsafe import Markup

from earmark.evaluation.results import Bin
from earmark.plots import BLUE, GREY, figure, svg


def calibration(reliability: Mapping[str, Sequence[Bin]]) -> Markup | None:
    """How often categories apply to texts of about the same score, beside where they should be.

    Args:
        reliability: By category.

    Returns:
        The figure; None if there is none to show.
    """
    shown = {category: bins for category, bins in reliability.items() if bins}
    if not shown:
        return None
    columns = 3
    rows = -(-len(shown) // columns)
    drawing, grid = figure(2.9 * rows, columns, rows)
    panels = list(grid.flat)
    for panel in panels[len(shown) :]:
        panel.set_axis_off()
    for panel, (category, bins) in zip(panels, shown.items(), strict=False):
        scores, shares = [each.score for each in bins], [each.share for each in bins]
        below = [each.share - each.share_low for each in bins]
        above = [each.share_high - each.share for each in bins]
        panel.plot([0, 1], [0, 1], color=GREY, linewidth=1, linestyle=":")
        panel.errorbar(scores, shares, [below, above], color=BLUE, marker="o", linewidth=1)
        panel.set(title=category, xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))
        panel.set(xlabel="mean score", ylabel="share it applies to")
    told = "; ".join(
        f"{category}: "
        + ", ".join(f"{each.share:.0%} of {each.texts} at {each.score:.2f}" for each in bins)
        for category, bins in shown.items()
    )
    return svg(drawing, f"Share of texts that a category applies to, by score. {told}")
