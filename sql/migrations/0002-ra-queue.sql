-- depends: 0001-tables

-- What research assistants review: each clip flagged in the last 24 hours once, by its
-- highest score.  Where a clip has several transcripts or sets of scores, the archive's
-- latest load decides.
CREATE VIEW ra_queue AS
SELECT
    af.id,
    af.original_filename,
    af.opus_path,
    t.transcript_text,
    c.flag_score,
    c.flag_category,
    af.created_at,
    af.archive_source AS archive,
    af.duration_seconds,
    t.language,
    t.confidence,
    c.flag_categories
FROM audio_files af
LEFT JOIN archives a ON a.id = af.archive_id
JOIN transcripts t ON t.audio_file_id = af.id AND t.asr = COALESCE(a.asr, 'unrecorded')
CROSS JOIN LATERAL (
    SELECT
        MAX(best.flag_score) AS flag_score,
        (ARRAY_AGG(best.flag_category ORDER BY best.flag_score DESC NULLS LAST, best.flag_category))[1]
            AS flag_category,
        ARRAY_AGG(best.flag_category ORDER BY best.flag_score DESC NULLS LAST, best.flag_category)
            AS flag_categories
    FROM classifications best
    WHERE best.audio_file_id = af.id
      AND best.policy = COALESCE(a.policy, 'unrecorded')
      AND best.flagged
    HAVING COUNT(*) > 0
) c
WHERE af.status = 'flagged'
  AND af.created_at > NOW() - INTERVAL '24 hours'
ORDER BY c.flag_score DESC NULLS LAST, af.id;

COMMENT ON VIEW ra_queue IS 'Clips flagged in the last 24 hours that await review, highest score first; each clip once';

COMMENT ON COLUMN ra_queue.flag_score IS 'Highest score among the flagged categories';

COMMENT ON COLUMN ra_queue.flag_categories IS 'All flagged categories, highest score first';
