"""Figures as SVG, in one style for all pages.

Matplotlib draws; text stays text, so that it can be selected and read aloud.
"""

import io
import re
from typing import Any

import matplotlib as mpl
from markupsafe import Markup
from matplotlib.figure import Figure

BLUE, ORANGE, GREY = "#0b5cad", "#b45309", "#767676"  # 4.5:1 and more on white
_STYLE: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "earmark",  # the same figure is the same file
    "font.family": "sans-serif",
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
}


def figure(height: float, columns: int = 1, rows: int = 1) -> tuple[Figure, Any]:
    """An empty figure, and its axes.

    Args:
        height: In inches; the width is 8.
        columns: Axes side by side; with more than one, there is an array of them.
        rows: Axes below each other.
    """
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(8, height), layout="constrained")
        return figure, figure.subplots(rows, columns)


def svg(figure: Figure, told: str) -> Markup:
    """A figure for a page.

    Args:
        figure: The figure.
        told: What it tells, for those who can't see it.
    """
    file = io.StringIO()
    with mpl.rc_context(_STYLE):
        figure.savefig(file, format="svg", metadata={"Date": None})
    drawn = re.sub(r"^.*?(?=<svg)", "", file.getvalue(), flags=re.DOTALL)
    described = Markup('<svg role="img" aria-label="{}"').format(told)
    return described + Markup(drawn.removeprefix("<svg"))
