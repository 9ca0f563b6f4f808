CREATE OR REPLACE FUNCTION mark_reviewed(clip BIGINT) RETURNS BOOLEAN
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
DECLARE
    reviewed RECORD;
BEGIN
    UPDATE public.audio_files SET status = 'reviewed'
    WHERE id = clip AND status = 'flagged'
    RETURNING archive_id, ordinal INTO reviewed;
    IF NOT FOUND THEN
        RETURN FALSE;
    END IF;
    UPDATE public.audio_files SET status = 'reviewed'
    WHERE archive_id = reviewed.archive_id AND duplicate_of = reviewed.ordinal
      AND status = 'flagged';
    RETURN TRUE;
END
$$;

COMMENT ON FUNCTION mark_reviewed IS 'Takes a flagged clip, and its duplicates in the archive, out of the queue; false if it does not wait';

DROP VIEW ra_controls;

DROP VIEW ra_queue;

ALTER TABLE audio_files
    DROP COLUMN waits_since,
    DROP COLUMN review_probability,
    DROP COLUMN control,
    DROP COLUMN copied_from;

ALTER TABLE audio_files ADD COLUMN waits_since DATE GENERATED ALWAYS AS (
    CASE WHEN status = 'flagged' AND queue_categories IS NOT NULL
    THEN (created_at AT TIME ZONE 'UTC')::DATE END
) STORED;

COMMENT ON COLUMN audio_files.waits_since IS 'Day (UTC) of created_at while it waits for review; null if it does not';

CREATE INDEX idx_audio_queue ON audio_files (
    waits_since, queue_score DESC NULLS LAST, id, created_at
) INCLUDE (queue_categories) WHERE waits_since IS NOT NULL;

CREATE VIEW ra_queue AS
SELECT
    af.id,
    af.original_filename,
    af.opus_path,
    t.transcript_text,
    q.queue_score AS flag_score,
    af.queue_category AS flag_category,
    af.created_at,
    af.archive_source AS archive,
    af.duration_seconds,
    t.language,
    t.confidence,
    q.queue_categories AS flag_categories
FROM (
    (
        SELECT id, queue_score, queue_categories FROM audio_files
        WHERE waits_since = (NOW() AT TIME ZONE 'UTC')::DATE
        ORDER BY queue_score DESC NULLS LAST, id
    )
    UNION ALL
    (
        SELECT id, queue_score, queue_categories FROM audio_files
        WHERE waits_since = (NOW() AT TIME ZONE 'UTC')::DATE - 1
          AND created_at > NOW() - INTERVAL '24 hours'
        ORDER BY queue_score DESC NULLS LAST, id
    )
    UNION ALL
    (
        SELECT id, queue_score, queue_categories FROM audio_files
        WHERE waits_since > (NOW() AT TIME ZONE 'UTC')::DATE
        ORDER BY queue_score DESC NULLS LAST, id
    )
) q
JOIN audio_files af ON af.id = q.id
-- At most one row, which LIMIT tells the planner: it must not fear to find too few.
CROSS JOIN LATERAL (
    SELECT * FROM transcripts
    WHERE audio_file_id = af.id
      AND asr = COALESCE((SELECT a.asr FROM archives a WHERE a.id = af.archive_id), 'unrecorded')
    LIMIT 1
) t
ORDER BY q.queue_score DESC NULLS LAST, q.id;

COMMENT ON VIEW ra_queue IS 'Clips flagged in the last 24 hours that await review, highest score first; each clip once';

COMMENT ON COLUMN ra_queue.flag_score IS 'Highest score among the flagged categories';

COMMENT ON COLUMN ra_queue.flag_categories IS 'All flagged categories, highest score first';
