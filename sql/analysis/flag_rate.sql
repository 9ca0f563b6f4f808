-- How often does each category flag, by day and language?
--
-- One line per policy and asr set, day, category and language.  A clip in two languages counts
-- in both.  "clips" got an answer; "undecided" did not, and count for nothing else.  "flag_rate" is that of the clips;
-- "weighted_flag_rate" estimates it for all clips they were drawn from, each counting
-- 1 / inclusion_probability (Hájek's ratio estimator).
WITH judged AS (
    SELECT
        policy,
        asr,
        date,
        category,
        UNNEST(languages) AS language,
        status = 'ok' AS answered,
        flagged AS hit,
        1 / inclusion_probability AS weight
    FROM answers
)
SELECT
    policy,
    asr,
    date,
    category,
    language,
    COUNT(*) FILTER (answered) AS clips,
    COUNT(*) FILTER (hit) AS flagged,
    COUNT(*) FILTER (NOT answered) AS undecided,
    COUNT(*) FILTER (hit) / NULLIF(COUNT(*) FILTER (answered), 0) AS flag_rate,
    COALESCE(SUM(weight) FILTER (hit), 0) / SUM(weight) FILTER (answered) AS weighted_flag_rate
FROM judged
GROUP BY policy, asr, date, category, language
ORDER BY policy, asr, date, category, clips DESC, language;
