DROP VIEW ra_controls;

DROP VIEW ra_queue;

ALTER TABLE transcripts
    DROP COLUMN languages,
    DROP COLUMN doubt;

COMMENT ON COLUMN transcripts.language IS 'ISO 639-1; null without speech';

COMMENT ON COLUMN transcripts.segments IS 'Array of {start, end, text, avg_logprob}; times in seconds';

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

CREATE VIEW ra_controls AS
SELECT
    af.id,
    af.original_filename,
    af.opus_path,
    t.transcript_text,
    af.review_probability,
    af.created_at,
    af.archive_source AS archive,
    af.duration_seconds,
    t.language,
    t.confidence
FROM audio_files af
LEFT JOIN archives a ON a.id = af.archive_id
JOIN transcripts t ON t.audio_file_id = af.id AND t.asr = COALESCE(a.asr, 'unrecorded')
WHERE af.control
  AND af.status = 'transcribed'
  AND af.copied_from IS NULL
  AND af.created_at > NOW() - INTERVAL '24 hours'
ORDER BY af.source_sha256, af.id;

COMMENT ON VIEW ra_controls IS 'Clips of the last 24 hours that no category flagged, drawn for review; in random order, each once';
