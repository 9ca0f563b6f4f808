-- How often does each category flag, by day and language?
--
-- One line per policy and asr set, day, category and language.  A clip in two languages counts
-- in both.  "clips" got an answer; "undecided" did not, and count for nothing else; "unasked"
-- the screen kept from the policy.  "flag_rate" is that of the clips that were asked about;
-- "weighted_flag_rate" estimates it for all clips they were drawn from, each flag counting
-- 1 / (inclusion_probability * asked_probability), among clips that count
-- 1 / inclusion_probability, unasked ones too.
WITH judged AS (
    SELECT
        policy,
        asr,
        date,
        category,
        UNNEST(languages) AS language,
        status = 'ok' AS answered,
        status = 'unasked' AS unasked,
        flagged AS hit,
        1 / inclusion_probability AS weight,
        weight / asked_probability AS weight_of_answer
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
    COUNT(*) FILTER (NOT answered AND NOT unasked) AS undecided,
    COUNT(*) FILTER (unasked) AS unasked,
    COUNT(*) FILTER (hit) / NULLIF(COUNT(*) FILTER (answered), 0) AS flag_rate,
    COALESCE(SUM(weight_of_answer) FILTER (hit), 0)
        / SUM(weight) FILTER (answered OR unasked) AS weighted_flag_rate
FROM judged
GROUP BY policy, asr, date, category, language
ORDER BY policy, asr, date, category, clips DESC, language;
