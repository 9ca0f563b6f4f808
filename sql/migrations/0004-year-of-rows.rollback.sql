CREATE OR REPLACE VIEW ra_queue AS
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

ALTER TABLE archives RESET (autovacuum_analyze_scale_factor);

ALTER TABLE audio_files RESET (
    autovacuum_vacuum_scale_factor, autovacuum_vacuum_insert_scale_factor,
    autovacuum_analyze_scale_factor, autovacuum_analyze_threshold
);

ALTER TABLE transcripts RESET (
    autovacuum_vacuum_scale_factor, autovacuum_vacuum_insert_scale_factor,
    autovacuum_analyze_scale_factor, autovacuum_analyze_threshold
);

ALTER TABLE classifications RESET (
    autovacuum_vacuum_scale_factor, autovacuum_vacuum_insert_scale_factor,
    autovacuum_analyze_scale_factor, autovacuum_analyze_threshold
);

ALTER TABLE classifications ADD PRIMARY KEY (id);

DROP INDEX idx_classifications_flagged;

CREATE INDEX idx_classifications_flagged ON classifications (flagged, created_at DESC);

DROP INDEX idx_audio_created;

CREATE INDEX idx_audio_created ON audio_files (created_at);

DROP INDEX idx_audio_status_created;

CREATE INDEX idx_audio_status_created ON audio_files (status, created_at DESC);

DROP INDEX idx_audio_queue;

DROP TRIGGER keep_flags ON archives;

DROP TRIGGER keep_flags_deleted ON classifications;

DROP TRIGGER keep_flags_updated ON classifications;

DROP TRIGGER keep_flags_inserted ON classifications;

DROP FUNCTION keep_flags_of_archive;

DROP FUNCTION keep_flags_of_clip;

DROP FUNCTION refresh_flags;

ALTER TABLE audio_files
    DROP COLUMN waits_since,
    DROP COLUMN queue_categories,
    DROP COLUMN queue_category,
    DROP COLUMN queue_score;

ALTER TABLE transcripts DROP COLUMN nul_count;
