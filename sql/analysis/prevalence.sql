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
-- nothing of other days, nor of what a classifier gets wrong: `earmark harm` counts what people
-- find, this counts flags.
--
-- With a screen, sampling has two phases (Särndal and others, section 9.4).  Of what the screen
-- let through every answer is known; each clip of the rest counts with the rest's rate of flags,
-- estimated from what was asked of it all the same, weights 1 / (inclusion_probability *
-- asked_probability).  So the first phase adds the variance of the mean of these, and the second
-- that of the rate, times the rest's part of the population.  Intervals are added by squares (Zou
-- and Donner, Statistics in Medicine 27, 2008).  "missed" depends on that rate and on "caught":
-- among what the screen let through and is flagged, and all of the rest, the share of the former.
-- While nothing of the rest was asked, "prevalence" and "missed" are null and the intervals take
-- in any rate.
WITH judged AS (
    SELECT policy, asr, category, HASH(content) AS content, status, flagged, is_out,
        inclusion_probability, asked_probability,
        UNNEST(LIST_APPEND(languages, 'all languages')) AS language
    FROM answers
    WHERE status = 'ok' OR is_out
),

rates AS (
    SELECT
        policy,
        asr,
        category,
        language,
        SUM(flagged::INT * weight) / SUM(weight) AS rate,
        BOOL_OR(is_out) AND rate IS NULL AS is_unknown
    FROM (
        SELECT
            *,
            weight: CASE
                WHEN is_out AND status = 'ok' THEN 1 / inclusion_probability / asked_probability
            END
        FROM judged
    )
    GROUP BY ALL
),

rated AS (
    SELECT judged.*, rate, is_unknown
    FROM judged
    JOIN rates USING (policy, asr, category, language)
),

parts AS (
    SELECT policy, asr, category, language, content, status, flagged, is_out,
        'all' AS part, inclusion_probability AS p,
        CASE WHEN is_out THEN COALESCE(rate, 0) ELSE flagged::INT END AS y
    FROM rated
    UNION ALL
    -- Nothing is known of the rest: it may all be flagged.
    SELECT policy, asr, category, language, content, status, flagged, is_out,
        'at most', inclusion_probability, (is_out OR flagged)::INT
    FROM rated
    WHERE is_unknown
    UNION ALL
    SELECT policy, asr, category, language, content, status, flagged, is_out,
        'rest', inclusion_probability * asked_probability, flagged::INT
    FROM rated
    WHERE is_out AND status = 'ok'
    UNION ALL
    SELECT policy, asr, category, language, content, status, flagged, is_out,
        'caught', inclusion_probability, (NOT is_out)::INT
    FROM rated
    WHERE is_out OR flagged
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
        COUNT(*) FILTER (flagged) AS flagged,
        SUM(1 / p) AS population,
        COALESCE(SUM(1 / p) FILTER (is_out), 0) / SUM(1 / p) AS part_out,
        SUM(y / p) / SUM(1 / p) AS prevalence,
        SUM(y ^ 2 / p) / SUM(1 / p) - prevalence ^ 2 AS spread
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
            WHEN prevalence * (1 - prevalence) > 0
            THEN COALESCE(
                prevalence * (1 - prevalence)
                / NULLIF(GREATEST(variance, spread / size_by_weights), 0),
                'infinity'::DOUBLE
            )
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

summed AS (
    SELECT
        every.* EXCLUDE (part, prevalence, variance),
        estimate: every.prevalence,
        prevalence: CASE WHEN every.part_out = 0 OR rest.prevalence IS NOT NULL THEN estimate END,
        variance: every.variance
            + CASE WHEN every.part_out > 0 THEN every.part_out ^ 2 * rest.variance ELSE 0 END,
        rate: rest.prevalence,
        rate_low: COALESCE(rest.low, 0),
        rate_high: COALESCE(rest.high, 1),
        high_at_most: at_most.high,
        caught: kept.prevalence,
        caught_low: kept.low,
        caught_high: kept.high,
        missed: rate * (1 - caught) / NULLIF(caught + rate * (1 - caught), 0)
    FROM bounded every
    LEFT JOIN bounded rest
        ON (rest.policy, rest.asr, rest.category, rest.language, rest.part)
        = (every.policy, every.asr, every.category, every.language, 'rest')
    LEFT JOIN bounded kept
        ON (kept.policy, kept.asr, kept.category, kept.language, kept.part)
        = (every.policy, every.asr, every.category, every.language, 'caught')
    LEFT JOIN bounded at_most
        ON (at_most.policy, at_most.asr, at_most.category, at_most.language, at_most.part)
        = (every.policy, every.asr, every.category, every.language, 'at most')
    WHERE every.part = 'all'
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
    prevalence,
    SQRT(ABS(variance)) AS standard_error,
    CASE
        WHEN rate IS NULL THEN low
        ELSE GREATEST(
            0, estimate - SQRT((estimate - low) ^ 2 + (part_out * (rate - rate_low)) ^ 2)
        )
    END AS low,
    CASE
        WHEN rate IS NULL THEN COALESCE(high_at_most, high)
        ELSE LEAST(
            1, estimate + SQRT((high - estimate) ^ 2 + (part_out * (rate_high - rate)) ^ 2)
        )
    END AS high,
    CASE WHEN part_out > 0 THEN missed END AS missed,
    CASE
        WHEN part_out > 0
        THEN GREATEST(0, missed - SQRT(
            (missed - rate * (1 - caught_high) / (caught_high + rate * (1 - caught_high))) ^ 2
            + (missed - COALESCE(
                rate_low * (1 - caught) / NULLIF(caught + rate_low * (1 - caught), 0), 0
            )) ^ 2
        ))
    END AS missed_low,
    CASE
        WHEN part_out > 0 AND rate IS NULL THEN 1 - caught_low
        WHEN part_out > 0
        THEN LEAST(1, missed + SQRT(
            (rate * (1 - caught_low) / (caught_low + rate * (1 - caught_low)) - missed) ^ 2
            + (rate_high * (1 - caught) / (caught + rate_high * (1 - caught)) - missed) ^ 2
        ))
    END AS missed_high
FROM summed
ORDER BY policy, asr, category, language <> 'all languages', clips DESC, language;
