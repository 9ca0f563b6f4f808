-- What failed, where, and why?
--
-- One line per stage and reason, with numbers in reasons taken as equal, and an example:
-- archives that are not whole, members that could not be decoded, clips that could not be
-- transcribed, answers that failed or could not be read.
WITH failures AS (
    SELECT 'archive' AS stage, reason, date, archive, NULL AS ordinal
    FROM receipts
    WHERE status <> 'ok'
    UNION ALL
    SELECT 'encode', error, date, archive, ordinal FROM manifests WHERE status = 'failed'
    UNION ALL
    SELECT 'transcribe', error, date, archive, ordinal FROM transcripts WHERE status = 'failed'
    UNION ALL
    SELECT 'classify', COALESCE(error, status), date, archive, ordinal
    FROM classes
    WHERE status NOT IN ('ok', 'unasked')
)
SELECT
    stage,
    REGEXP_REPLACE(COALESCE(reason, '(no reason given)'), '\b[0-9]+\b', 'N', 'g') AS reason,
    COUNT(*) AS failures,
    COUNT(DISTINCT (date, archive)) AS archives,
    MIN(date) AS first_day,
    MAX(date) AS last_day,
    MIN_BY(archive || COALESCE(' #' || ordinal, ''), (date, archive, ordinal)) AS example
FROM failures
GROUP BY ALL
ORDER BY failures DESC, stage, reason;
