-- How are the scores distributed, by category?
--
-- One line per policy set, category and tenth of the scale: clips, and their share among
-- all clips, each counting 1 / (inclusion_probability * asked_probability).  "thresholds" are those that hold in
-- that tenth.  Many clips about a threshold mean that its place matters: look where they end
-- up when it moves.
WITH scored AS (
    SELECT DISTINCT
        policy, category, date, archive, ordinal, threshold,
        1 / (inclusion_probability * asked_probability) AS w,
        LEAST(FLOOR(score * 10), 9)::INT AS tenth, LEAST(FLOOR(threshold * 10), 9) AS cut
    FROM answers
    WHERE status = 'ok'
)

SELECT
    policy,
    category,
    tenth / 10 AS score_from,
    (tenth + 1) / 10 AS score_to,
    COUNT(*) AS clips,
    ROUND(SUM(w) / SUM(SUM(w)) OVER (PARTITION BY policy, category), 4) AS share,
    LIST_SORT(LIST(DISTINCT threshold) FILTER (cut = tenth)) AS thresholds
FROM scored
GROUP BY policy, category, tenth
ORDER BY policy, category, tenth;
