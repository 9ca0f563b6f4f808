"""How much harm there is among what came, by people's verdicts about the review sample.

Uploads and scores come from the volume, draws and verdicts from the record; contents join the two.
What is done with them is :mod:`earmark.record.estimators`.
"""

import datetime
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from earmark.errors import EarmarkError
from earmark.record import estimators
from earmark.record.analysis import open_volume
from earmark.record.database import connect, require_schema
from earmark.record.estimators import Contents, Estimate, Floats
from earmark.record.review_sample import BOUNDS, strata
from earmark.tables import MANIFEST

#: What is asked about beside single categories: harm under any of them.
ANY = "any category"
#: From which scores on a classifier's worth is told.
THRESHOLDS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)

#: By what estimates can be parted; any column of the manifest as well.
PARTS = {
    "day": "m.date",
    "week": "date_trunc('week', m.date)::DATE",
    "language": "COALESCE(t.language, 'no speech')",
    "folder": "regexp_extract(m.member, '^(.*)/[^/]*$', 1)",
}

_ARCHIVES = "SELECT name, date, asr FROM archives WHERE asr IS NOT NULL"

_DRAWS = """
    SELECT a.name, a.date, d.draw_id, d.policy, b.bounds
    FROM review_draw_archives d
    JOIN archives a ON a.id = d.archive_id
    JOIN review_draws b ON b.id = d.draw_id
"""

# What is settled comes first.
_DECIDED = """
    SELECT
        af.source_sha256, d.draw_id, a.date, a.name, af.ordinal,
        s.audio_file_id IS NOT NULL, o.verdict, o.categories
    FROM review_standing first
    JOIN audio_files af ON af.id = first.audio_file_id
    JOIN archives a ON a.id = af.archive_id
    JOIN review_draw_archives d ON d.archive_id = a.id
    LEFT JOIN review_sample_heard s ON s.audio_file_id = af.id
    LEFT JOIN review_outcomes o ON o.audio_file_id = af.id
    WHERE first.round = 'first'
    ORDER BY COALESCE(o.verdict IN ('reportable', 'not reportable'), FALSE) DESC, af.id
"""

# A content can be decided about in several archives, as where a later policy set flags what an
# earlier one did not. Its row in the frame alone was drawn with the probability of its stratum.
_PLACES = """
    SELECT
        frame.place, decided.number,
        (frame.draw, frame.date, frame.archive, frame.ordinal)
        = (decided.draw, decided.date, decided.archive, decided.ordinal) AS is_own
    FROM decided
    JOIN frame USING (content)
    ORDER BY is_own DESC, decided.number
"""

# Of each archive one set: what was transcribed with a former asr.name stays on the volume. Where
# none is loaded, one of which a policy set is made.
_TRANSCRIPTS = """
    CREATE TEMP TABLE sets AS
    SELECT DISTINCT ON (t.date, t.archive) t.date, t.archive, t.asr
    FROM (SELECT DISTINCT date, archive, asr FROM transcripts) t
    LEFT JOIN loaded USING (date, archive)
    ORDER BY
        t.date, t.archive, COALESCE(t.asr = loaded.asr, FALSE) DESC,
        t.asr IN (SELECT asr FROM policies WHERE asr IS NOT NULL) DESC, t.asr DESC;
    CREATE TEMP VIEW one_transcript AS
    SELECT t.* FROM transcripts t JOIN sets USING (date, archive, asr)
"""

# Each content once, where the machine heard it, and in the first draw that has it.
_FRAME = """
    CREATE TEMP TABLE frame AS
    WITH judged AS (
        SELECT
            c.date, c.archive, c.ordinal, any_value(draws.draw) AS draw,
            max(c.score) FILTER (c.status = 'ok') AS highest,
            max(c.score) FILTER (c.flagged) AS queued
        FROM classes c
        JOIN draws ON (draws.date, draws.archive, draws.policy) = (c.date, c.archive, c.policy)
        GROUP BY ALL
    )
    SELECT (row_number() OVER (ORDER BY content)) - 1 AS place, *
    FROM (
        SELECT DISTINCT ON (m.source_sha256)
            m.source_sha256 AS content, j.draw, j.highest, j.queued, m.date, m.archive, m.ordinal
        FROM manifests m
        JOIN judged j USING (date, archive, ordinal)
        JOIN one_transcript t USING (date, archive, ordinal)
        WHERE t.status = 'ok' AND m.duplicate_of IS NULL AND t.copied_from IS NULL
        ORDER BY m.source_sha256, j.draw, m.date, m.archive
    )
"""

_SCORES = """
    SELECT frame.place, c.score, c.flagged
    FROM classes c
    JOIN frame USING (date, archive, ordinal)
    JOIN draws ON (draws.date, draws.archive, draws.policy) = (c.date, c.archive, c.policy)
    WHERE c.category = $category AND c.status = 'ok'
"""

# The variance of sums over uploads: see unseen in earmark.record.estimators.
_UPLOADS = """
    SELECT part, place, sum(1 / p) AS size, sum((1 - p) / p * (1 / p + 2 * smaller)) AS unseen
    FROM (
        SELECT
            part, place, p,
            COALESCE(sum(1 / p) OVER (
                PARTITION BY part, place ORDER BY p ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING
            ), 0) AS smaller
        FROM (
            SELECT ({part})::VARCHAR AS part, frame.place, m.inclusion_probability AS p
            FROM manifests m
            JOIN one_transcript t
                ON (t.date, t.archive, t.ordinal)
                = (m.date, m.archive, COALESCE(m.duplicate_of, m.ordinal))
            LEFT JOIN frame ON frame.content = m.source_sha256
            WHERE m.selected AND t.status = 'ok'
              AND m.date BETWEEN COALESCE($since, DATE '0001-01-01')
              AND COALESCE($until, DATE '9999-12-31')
        )
    )
    GROUP BY ALL
    ORDER BY part
"""

#: Of the columns that the volume's queries are given from the record; the others are texts.
_TYPES = {"date": pa.date32(), **dict.fromkeys(("draw", "number", "ordinal"), pa.int64())}


@dataclass(frozen=True)
class Part:
    """Estimates for a part of what came.

    Attributes:
        category: Of harm, or :data:`ANY`.
        part: Which part.
        uploads: About so many were of contents that could be heard.
        outside: About so many more were of contents of no draw, of which nothing is known.
        flags: Share of the uploads that the classifier flags; NaN for :data:`ANY`.
        sample: The prevalence by weights alone.
        scores: The prevalence with the scores of all.
    """

    category: str
    part: str
    uploads: float
    outside: float
    flags: float
    sample: Estimate
    scores: Estimate


@dataclass(frozen=True)
class Worth:
    """What a classifier is worth from a score on, or between two.

    Attributes:
        category: Of harm.
        score: The least score; the mean of the scores for a calibration.
        uploads_a_day: With scores like that.
        precision: Which part of them is harmful.
        recall: Which part of what is harmful is among them; None for a calibration.
    """

    category: str
    score: float
    uploads_a_day: float
    precision: Estimate
    recall: Estimate | None


class Study:
    """All draws of a record, with what people decided and what the classifier said."""

    def __init__(
        self,
        volume_root: Path,
        conninfo: str,
        since: datetime.date | None = None,
        until: datetime.date | None = None,
    ) -> None:
        """Read them.

        Args:
            volume_root: ``volume.root``.
            conninfo: As :func:`earmark.record.database.connection_string` returns it.
            since: Only uploads in archives of this date and later; None for all.
            until: Only uploads in archives of this date and earlier; None for all.

        Raises:
            EarmarkError: there are no results, a file of them is damaged, or the database can't be
                reached.
        """
        self._dates = {"since": since, "until": until}
        with connect(conninfo) as connection, connection.cursor() as cursor:
            require_schema(connection)
            cursor.execute(_ARCHIVES)
            archives = _turned(cursor.fetchall(), 3)
            cursor.execute(_DRAWS)
            draws = cursor.fetchall()
            cursor.execute(_DECIDED)
            *rows, sampled, verdicts, named = _turned(cursor.fetchall(), 8)
        self._volume = open_volume(volume_root)
        for name in self._dates:
            self._volume.execute(f"SET VARIABLE {name} = NULL")
        self._register("loaded", ("archive", "date", "asr"), archives)
        self._register("draws", ("archive", "date", "draw", "policy"), _turned(draws, 5)[:4])
        with _damage_explained():
            self._volume.execute(_TRANSCRIPTS)
            self._volume.execute(_FRAME)
        frame = _columns(self._volume, "SELECT draw, highest, queued FROM frame ORDER BY place")
        self._draw, highest = frame["draw"].astype(np.int64), _floats(frame["highest"])
        columns = ("number", "content", "draw", "date", "archive", "ordinal")
        self._register("decided", columns, [range(len(verdicts)), *rows])
        found = _columns(self._volume, _PLACES)
        self._sampled = np.zeros(len(self._draw), bool)
        self._verdict: dict[int, tuple[str | None, frozenset[str]]] = {}
        for at, number, is_own in zip(*(each.tolist() for each in found.values()), strict=True):
            self._sampled[at] |= is_own and sampled[number]
            self._verdict.setdefault(at, (verdicts[number], frozenset(named[number] or ())))
        heard = np.zeros(len(self._draw), bool)
        heard[list(self._verdict)] = True
        self._stratum = np.zeros(len(self._draw), np.int64)
        for draw, bounds in {(number, tuple(bounds)) for _, _, number, _, bounds in draws}:
            of_draw = self._draw == draw
            self._stratum[of_draw] = strata(highest[of_draw], bounds)
        self._known = estimators.known_top(self._draw, _floats(frame["queued"]), heard)

    @property
    def heard(self) -> int:
        """How many contents of the sample people decided about for good."""
        return sum(
            verdict in ("reportable", "not reportable") and bool(self._sampled[at])
            for at, (verdict, _) in self._verdict.items()
        )

    @property
    def categories(self) -> list[str]:
        """All that the classifier or people named."""
        asked = _columns(
            self._volume,
            "SELECT DISTINCT c.category FROM classes c JOIN draws "
            "ON (draws.date, draws.archive, draws.policy) = (c.date, c.archive, c.policy)",
        )["category"].tolist()
        named = {category for _, each in self._verdict.values() for category in each}
        return sorted({*asked, *named})

    def prevalence(self, by: str | None = None) -> Iterator[Part]:
        """Estimate how much of what came is harmful.

        Args:
            by: One of :data:`PARTS`, a column of the manifest, or None for all of it.

        Yields:
            Harm of any category and of each, for each part.

        Raises:
            EarmarkError: there is no such column, or a file is damaged.
        """
        parts = list(self._parts(by))
        for category in (ANY, *self.categories):
            score, flagged = self._scores(category)
            for name, size, unseen, outside in parts:
                contents = self._contents(category, score, size, unseen)
                if not size.any():
                    continue
                yield Part(
                    category,
                    name,
                    float(size.sum()),
                    outside,
                    float(np.average(flagged, weights=size)) if category != ANY else np.nan,
                    estimators.prevalence(contents),
                    estimators.prevalence(contents, use_scores=category != ANY),
                )

    def thresholds(self) -> Iterator[Worth]:
        """What each of :data:`THRESHOLDS` would find in each category, and cost in reviews."""
        for category, contents in self._classified():
            for threshold in THRESHOLDS:
                found = contents.score >= threshold
                if contents.of(found).size.any():
                    yield Worth(
                        category,
                        threshold,
                        float(contents.size[found].sum()) / self._days,
                        estimators.prevalence(contents.of(found)),
                        estimators.recall(contents, found),
                    )

    def calibration(self) -> Iterator[Worth]:
        """Which part of each category is harmful where scores are alike."""
        for category, contents in self._classified():
            bins = strata(contents.score, BOUNDS)
            for each in np.unique(bins):
                here = contents.of(bins == each)
                if here.size.any():
                    yield Worth(
                        category,
                        float(np.average(contents.score, weights=here.size)),
                        float(here.size.sum()) / self._days,
                        estimators.prevalence(here),
                        None,
                    )

    def drift(self) -> dict[str, float]:
        """How likely verdicts at like scores differ as much between weeks by chance, by category.

        A week is that of the archives' dates.
        """
        dates = _columns(
            self._volume,
            "SELECT date_diff('week', DATE '2000-01-03', date) AS week FROM frame ORDER BY place",
        )["week"].astype(np.int64)
        return {
            category: estimators.drift(
                self._contents(category, contents.score, contents.size, contents.unseen, False),
                dates,
            )
            for category, contents in self._classified()
        }

    def _register(self, name: str, columns: Sequence[str], values: Sequence[Sequence[Any]]) -> None:
        """Give the volume's queries a table out of the record."""
        table = {
            column: pa.array(each, _TYPES.get(column, pa.string()))
            for column, each in zip(columns, values, strict=True)
        }
        self._volume.register(name, pa.table(table))

    @cached_property
    def _days(self) -> int:
        return max(1, len(list(self._parts("day"))))

    def _classified(self) -> Iterator[tuple[str, Contents]]:
        for _, size, unseen, _ in self._parts(None):
            for category in self.categories:
                score, _ = self._scores(category)
                yield category, self._contents(category, score, size, unseen)

    def _parts(self, by: str | None) -> Iterator[tuple[str, Floats, Floats, float]]:
        """Name, sizes and their variances of each part, and uploads of no draw."""
        if by is not None and by not in PARTS and by not in MANIFEST.names:
            raise EarmarkError(
                f"there is no column {by}; known are {', '.join([*PARTS, *MANIFEST.names])}"
            )
        part = "'all'" if by is None else PARTS.get(by, f'm."{by}"')
        found = _columns(self._volume, _UPLOADS.format(part=part), **self._dates)
        name, sizes, unseen = (found[column] for column in ("part", "size", "unseen"))
        places = _floats(found["place"])
        for each in dict.fromkeys(name):
            here = np.array([of == each for of in name])
            inside = here & ~np.isnan(places)
            size, spread = np.zeros(len(self._draw)), np.zeros(len(self._draw))
            at = places[inside].astype(np.int64)
            size[at], spread[at] = sizes[inside], np.maximum(unseen[inside], 0)
            yield str(each), size, spread, float(sizes[here & ~inside].sum())

    def _scores(self, category: str) -> tuple[Floats, npt.NDArray[np.bool_]]:
        """The classifier's score and flag about each content; 0 and none without an answer."""
        score, flagged = np.zeros(len(self._draw)), np.zeros(len(self._draw), bool)
        found = _columns(self._volume, _SCORES, category=category)
        score[found["place"]] = found["score"]
        flagged[found["place"]] = found["flagged"]
        return score, flagged

    def _contents(
        self, category: str, score: Floats, size: Floats, unseen: Floats, with_top: bool = True
    ) -> Contents:
        known = self._known & with_top
        verdict = np.full(len(score), np.nan)
        for at, (said, categories) in self._verdict.items():
            if (self._sampled[at] or known[at]) and said in ("reportable", "not reportable"):
                verdict[at] = said == "reportable" and (category == ANY or category in categories)
        top = self._stratum.max(initial=0) + 1
        cell = np.where(known, top, self._stratum)
        return Contents(self._draw * (top + 1) + cell, cell, size, score, verdict, unseen)


def harm_tables(study: Study, by: str | None) -> dict[str, list[dict[str, Any]]]:
    """What :meth:`Study.prevalence` says, as rows by the table's title."""
    rows = [
        {
            "category": each.category,
            by or "part": each.part,
            "uploads": round(each.uploads),
            "outside": round(each.outside),
            "flags": _share(each.flags),
            **_told("prevalence", each.sample),
            **(_told("with_scores", each.scores) if each.category != ANY else _UNTOLD),
            "heard": each.sample.heard,
            "harmful": each.sample.harmful,
        }
        for each in study.prevalence(by)
    ]
    return {"Share of uploads that people would find harmful, with 95 % intervals": rows}


def classifier_tables(study: Study) -> dict[str, list[dict[str, Any]]]:
    """What a classifier's scores are worth, as rows by the tables' titles."""
    return {
        "From this score on: uploads a day, which part is harmful, which part of harm it is": [
            {
                "category": each.category,
                "threshold": each.score,
                "uploads_a_day": round(each.uploads_a_day, 1),
                **_told("precision", each.precision),
                **(_told("recall", each.recall) if each.recall else {}),
            }
            for each in study.thresholds()
        ],
        "Which part is harmful where scores are alike": [
            {
                "category": each.category,
                "mean_score": _share(each.score),
                "uploads_a_day": round(each.uploads_a_day, 1),
                **_told("harmful", each.precision),
                "heard": each.precision.heard,
            }
            for each in study.calibration()
        ],
        "Chance of such differences between weeks if scores kept their meaning": [
            {"category": category, "p": p} for category, p in study.drift().items()
        ],
    }


def _told(name: str, estimate: Estimate) -> dict[str, float | None]:
    return {
        name: _share(estimate.value),
        f"{name}_low": _share(estimate.low),
        f"{name}_high": _share(estimate.high),
    }


#: Scores are about categories: there is none about harm of any.
_UNTOLD = dict.fromkeys(("with_scores", "with_scores_low", "with_scores_high"))


def _share(value: float) -> float | None:
    return None if np.isnan(value) else round(value, 6)


def _turned(rows: list[tuple[Any, ...]], width: int) -> list[tuple[Any, ...]]:
    return list(zip(*rows, strict=True)) if rows else [()] * width


@contextmanager
def _damage_explained() -> Iterator[None]:
    """What is asked is always the same, so it is for the files' sake if it can't be answered."""
    try:
        yield
    except duckdb.OutOfMemoryException as error:
        raise EarmarkError(str(error)) from error
    except duckdb.Error as error:
        raise EarmarkError(f"{error}; `earmark doctor` finds what is damaged") from error


def _columns(
    volume: duckdb.DuckDBPyConnection, sql: str, **values: object
) -> dict[str, npt.NDArray[Any]]:
    """An answer by column; null is NaN in numbers, and None elsewhere."""
    with _damage_explained():
        answer = volume.sql(sql, params=values).to_arrow_table()
    return {name: answer[name].to_numpy() for name in answer.column_names}


def _floats(column: npt.NDArray[Any]) -> Floats:
    return np.asarray(column, float)
