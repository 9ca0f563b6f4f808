-- How prevalent is each category, by language, among all clips and not only those heard?
--
-- One line per policy and asr set, category and language, and one for all languages.
-- Every upload counts, repeated content included, and one in two languages counts in both.  "clips" got an answer, of about
-- "population" that have this language; "prevalence" estimates the share that the category
-- flags among these, with a 95 % interval from "low" to "high".
--
-- The estimate is Hájek's ratio, weights 1 / inclusion_probability.  Its variance is that of
-- Poisson sampling of contents, by linearization (Särndal, Swensson and Wretman, "Model
-- Assisted Survey Sampling", 1992, section 5.7): the uploads of a content are drawn by one
-- number, so two of them are both drawn with the smaller of their probabilities, and
-- everything else is independent.  Archives are strata here and no clusters: all are taken
-- in, each with its fraction, so that clips of an archive resemble each other widens nothing.
-- The interval is Wilson's at the effective sample size prevalence (1 - prevalence) /
-- variance (Kott and Carr, Journal of Official Statistics 13, 1997), which also holds where
-- few clips are flagged, or none.  It is about the clips that came in these days; it knows
-- nothing of other days, nor of what a classifier gets wrong.
WITH judged AS (
    SELECT policy, asr, category, archive, content, inclusion_probability AS p, flagged::INT AS y,
        UNNEST(LIST_APPEND(languages, 'all languages')) AS language
    FROM answers
    WHERE status = 'ok'
),

estimated AS (
    SELECT
        policy,
        asr,
        category,
        language,
        COUNT(*) AS clips,
        SUM(y) AS flagged,
        SUM(1 / p) AS population,
        SUM(y / p) / SUM(1 / p) AS prevalence
    FROM judged
    GROUP BY ALL
),

deviating AS (
    SELECT
        policy, asr, category, language, content, archive, p,
        (y - prevalence) / p / population AS deviation
    FROM judged
    JOIN estimated USING (policy, asr, category, language)
),

-- Sums over pairs within a content: (1 - the larger p) * deviation * deviation, and the same of
-- the weights.
varying AS (
    SELECT
        policy, asr, category, language,
        (1 - p) * deviation * (deviation + 2 * COALESCE(SUM(deviation) OVER smaller, 0)) AS part,
        (1 - p) / p * (1 / p + 2 * COALESCE(SUM(1 / p) OVER smaller, 0)) AS part_of_weights
    FROM deviating
    WINDOW smaller AS (
        PARTITION BY policy, asr, category, language, content ORDER BY p, archive
        ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING
    )
),

sized AS (
    SELECT
        *,
        -- A census has no sampling error.  From few flagged clips the variance may come out
        -- too small, from none as zero: it is never taken for smaller than weights and repeated
        -- contents alone make it (as by Korn and Graubard, Survey Methodology 24, 1998).
        CASE
            WHEN size_by_weights IS NULL THEN 'infinity'::DOUBLE
            WHEN variance > 0
            THEN LEAST(prevalence * (1 - prevalence) / variance, size_by_weights)
            ELSE size_by_weights
        END AS n
    FROM (
        SELECT *, population ^ 2 / NULLIF(variance_of_weights, 0) AS size_by_weights
        FROM estimated
        JOIN (
            SELECT
                policy, asr, category, language,
                SUM(part) AS variance, SUM(part_of_weights) AS variance_of_weights
            FROM varying
            GROUP BY ALL
        ) USING (policy, asr, category, language)
    )
)

SELECT
    policy,
    asr,
    category,
    language,
    clips,
    flagged,
    ROUND(population, 1) AS population,
    prevalence,
    SQRT(GREATEST(variance, 0)) AS standard_error,
    GREATEST(0, (prevalence + z2 / n / 2 - width) / (1 + z2 / n)) AS low,
    LEAST(1, (prevalence + z2 / n / 2 + width) / (1 + z2 / n)) AS high
FROM (
    SELECT *, z2: 1.959964 ^ 2, width: SQRT(z2 * (prevalence * (1 - prevalence) / n + z2 / n ^ 2 / 4))
    FROM sized
)
ORDER BY policy, asr, category, language <> 'all languages', clips DESC, language;
