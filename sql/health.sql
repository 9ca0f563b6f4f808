-- How the last 24 hours went, in one row: clips flagged and classified, clips whose
-- categories did not all get an answer that was asked for, clips pending (not selected) and failed; then members
-- that are no clips: audio of a format that is not taken, and what is no audio.
-- Each clip counts once, by the latest load of its archive.  For any psql:
--     psql -f sql/health.sql
SELECT
    COUNT(*) FILTER (WHERE c.flagged) AS flagged_count,
    COUNT(c.flagged) AS total_processed,
    COUNT(*) FILTER (WHERE c.undecided) AS undecided_count,
    COUNT(*) FILTER (WHERE af.status = 'pending') AS pending_count,
    COUNT(*) FILTER (WHERE af.status = 'failed') AS failed_count,
    (
        SELECT COALESCE(SUM(reason.value::BIGINT), 0)::BIGINT
        FROM archives, JSONB_EACH_TEXT(skipped_reasons) AS reason
        WHERE loaded_at > NOW() - INTERVAL '24 hours'
          AND STARTS_WITH(reason.key, 'audio of a format that is not taken')
    ) AS not_taken_count,
    (
        SELECT COALESCE(SUM(reason.value::BIGINT), 0)::BIGINT
        FROM archives, JSONB_EACH_TEXT(skipped_reasons) AS reason
        WHERE loaded_at > NOW() - INTERVAL '24 hours'
          AND NOT STARTS_WITH(reason.key, 'audio of a format that is not taken')
          AND reason.key <> 'erased'
    ) AS not_audio_count
FROM audio_files af
LEFT JOIN archives a ON a.id = af.archive_id
LEFT JOIN LATERAL (
    SELECT BOOL_OR(flagged) AS flagged, BOOL_OR(status NOT IN ('ok', 'unasked')) AS undecided
    FROM classifications
    WHERE audio_file_id = af.id
      AND policy = COALESCE(a.policy, 'unrecorded')
    HAVING COUNT(*) > 0
) c ON TRUE
WHERE af.created_at > NOW() - INTERVAL '24 hours';
