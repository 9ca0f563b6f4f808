-- How prevalent is each category, by language, among all clips and not only those heard?
--
-- One line per policy and asr set, category and language, and one for all languages.
-- Every upload counts, repeated content included, and one in two languages counts in both.  "clips" got an answer and
-- "unasked" were kept from the policies by the screen, of about "population" that have this
-- language; "prevalence" estimates the share that the category flags among these, or would flag
-- if it were asked, with a 95 % interval from "low" to "high".  "missed" is the part of that share
-- that the screen keeps out, from "missed_low" to "missed_high"; null without a screen.
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
--
-- With a screen the share is the sum of two, by sampling in two phases (Särndal and others,
-- section 9.4): what is flagged of what the screen let through, known for every clip; and what
-- is flagged of the rest, estimated from the share of it that was asked all the same, weights
-- 1 / (inclusion_probability * asked_probability), times the rest's part of the population.
-- Their intervals are added by squares (Zou and Donner, Statistics in Medicine 27, 2008), and so
-- are those of "missed", a function of both.
WITH judged AS (
    SELECT policy, asr, category, HASH(content) AS content, status, flagged, is_out,
        inclusion_probability, asked_probability,
        UNNEST(LIST_APPEND(languages, 'all languages')) AS language
    FROM answers
    WHERE status = 'ok' OR is_out
),

-- What the screen let through, among all; and of what it did not, what was asked.
parts AS (
    SELECT policy, asr, category, language, content, status, is_out,
        'passed' AS part, inclusion_probability AS p, (NOT is_out AND flagged)::INT AS y
    FROM judged
    UNION ALL
    SELECT policy, asr, category, language, content, status, is_out,
        'out', inclusion_probability * asked_probability, flagged::INT
    FROM judged
    WHERE is_out AND status = 'ok'
),

estimated AS (
    SELECT
        policy,
        asr,
        category,
        language,
        part,
        COUNT(*) FILTER (status = 'ok') AS clips,
        COUNT(*) FILTER (status = 'unasked') AS unasked,
        SUM(y) AS flagged,
        SUM(1 / p) AS population,
        COALESCE(SUM(1 / p) FILTER (is_out), 0) AS population_out,
        SUM(y / p) / SUM(1 / p) AS prevalence
    FROM parts
    GROUP BY ALL
),

deviating AS (
    SELECT
        policy, asr, category, language, part, content, p,
        (y - prevalence) / p / population AS deviation
    FROM parts
    JOIN estimated USING (policy, asr, category, language, part)
),

-- Sums over pairs within a content: (1 - the larger p) * deviation * deviation, and the same of
-- the weights.
varying AS (
    SELECT
        policy, asr, category, language, part,
        (1 - p) * deviation * (deviation + 2 * COALESCE(SUM(deviation) OVER smaller, 0)) AS term,
        (1 - p) / p * (1 / p + 2 * COALESCE(SUM(1 / p) OVER smaller, 0)) AS term_of_weights
    FROM deviating
    WINDOW smaller AS (
        PARTITION BY policy, asr, category, language, part, content ORDER BY p
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
                policy, asr, category, language, part,
                SUM(term) AS variance, SUM(term_of_weights) AS variance_of_weights
            FROM varying
            GROUP BY ALL
        ) USING (policy, asr, category, language, part)
    )
),

bounded AS (
    SELECT
        *,
        GREATEST(0, (prevalence + z2 / n / 2 - width) / (1 + z2 / n)) AS low,
        LEAST(1, (prevalence + z2 / n / 2 + width) / (1 + z2 / n)) AS high
    FROM (
        SELECT
            *,
            z2: 1.959964 ^ 2,
            width: SQRT(z2 * (prevalence * (1 - prevalence) / n + z2 / n ^ 2 / 4))
        FROM sized
    )
),

-- a of what the screen let through and b of the rest, as shares of the population.
summed AS (
    SELECT
        passed.* EXCLUDE (part, flagged),
        passed.flagged + COALESCE(rest.flagged, 0) AS flagged,
        part_out: passed.population_out / passed.population,
        a: passed.prevalence, a_low: passed.low, a_high: passed.high,
        b: part_out * COALESCE(rest.prevalence, 0),
        -- Nobody knows of a rest of which nothing was asked.
        b_low: part_out * COALESCE(rest.low, 0),
        b_high: part_out * COALESCE(rest.high, 1),
        b_variance: CASE WHEN part_out > 0 THEN part_out ^ 2 * rest.variance ELSE 0 END,
        missed: CASE WHEN part_out > 0 THEN b / NULLIF(a + b, 0) END
    FROM bounded passed
    LEFT JOIN bounded rest
        ON (rest.policy, rest.asr, rest.category, rest.language, rest.part)
        = (passed.policy, passed.asr, passed.category, passed.language, 'out')
    WHERE passed.part = 'passed'
)

SELECT
    policy,
    asr,
    category,
    language,
    clips,
    unasked,
    flagged,
    ROUND(population, 1) AS population,
    a + b AS prevalence,
    SQRT(ABS(variance + b_variance)) AS standard_error,
    a + b - SQRT((a - a_low) ^ 2 + (b - b_low) ^ 2) AS low,
    LEAST(1, a + b + SQRT((a_high - a) ^ 2 + (b_high - b) ^ 2)) AS high,
    missed,
    GREATEST(0, missed - SQRT(
        (missed - COALESCE(b_low / NULLIF(a + b_low, 0), 0)) ^ 2 + (missed - b / (a_high + b)) ^ 2
    )) AS missed_low,
    LEAST(1, missed + SQRT(
        (b_high / (a + b_high) - missed) ^ 2 + (b / (a_low + b) - missed) ^ 2
    )) AS missed_high
FROM summed
ORDER BY policy, asr, category, language <> 'all languages', clips DESC, language;
