-- How far do policy sets agree, by category?
--
-- One line per pair of policy sets and category, over the clips that both have judged and
-- answered.  "agreement" is the share of clips with the same verdict and "kappa" Cohen's
-- (1960), what of it is beyond chance; both estimate all clips, each counting
-- 1 / (inclusion_probability * asked_probability), the smaller of the two sets' as one number
-- draws for both.  The four counts are of clips as they were drawn.  Hear those
-- that only one set flags to learn which is right.
WITH judged AS (
    SELECT DISTINCT
        policy, category, date, archive, ordinal, inclusion_probability, asked_probability,
        flagged, score
    FROM answers
    WHERE status = 'ok'
),

pairs AS (
    SELECT
        one.policy AS policy,
        other.policy AS other_policy,
        category,
        one.flagged AS a,
        other.flagged AS b,
        one.score AS score,
        other.score AS other_score,
        1 / (
            one.inclusion_probability * LEAST(one.asked_probability, other.asked_probability)
        ) AS w
    FROM judged one
    JOIN judged other USING (category, date, archive, ordinal)
    WHERE one.policy < other.policy
),

shares AS (
    SELECT
        policy,
        other_policy,
        category,
        COUNT(*) AS clips,
        COUNT(*) FILTER (a AND b) AS both_flag,
        COUNT(*) FILTER (a AND NOT b) AS only_policy,
        COUNT(*) FILTER (b AND NOT a) AS only_other,
        COUNT(*) FILTER (NOT a AND NOT b) AS neither,
        SUM(w * (a = b)::INT) / SUM(w) AS agreement,
        SUM(w * a::INT) / SUM(w) AS rate,
        SUM(w * b::INT) / SUM(w) AS other_rate,
        SUM(w * ABS(score - other_score)) / SUM(w) AS score_difference
    FROM pairs
    GROUP BY ALL
)

SELECT
    policy,
    other_policy,
    category,
    clips,
    both_flag,
    only_policy,
    only_other,
    neither,
    ROUND(agreement, 4) AS agreement,
    ROUND((agreement - chance) / NULLIF(1 - chance, 0), 4) AS kappa,
    ROUND(score_difference, 4) AS mean_score_difference
FROM (SELECT *, chance: rate * other_rate + (1 - rate) * (1 - other_rate) FROM shares)
ORDER BY policy, other_policy, category;
