-- depends: 0003-compression-ratio

-- Fit for a year of two million clips a day; docs/database.md has the reasons.

ALTER TABLE transcripts ADD COLUMN nul_count INTEGER NOT NULL DEFAULT 0;

COMMENT ON COLUMN transcripts.nul_count IS 'NUL characters of the text, which PostgreSQL can''t store; each stands as U+FFFD';

-- What the queue sorts by, in the row that it lists: no index can serve an order that is
-- first computed from another table.
ALTER TABLE audio_files
    ADD COLUMN queue_score DOUBLE PRECISION,
    ADD COLUMN queue_category TEXT,
    ADD COLUMN queue_categories TEXT [];

COMMENT ON COLUMN audio_files.queue_score IS 'Highest score among the categories that flagged it under the archive''s policy set; kept by triggers';

COMMENT ON COLUMN audio_files.queue_category IS 'The category of that score; kept by triggers';

COMMENT ON COLUMN audio_files.queue_categories IS 'All categories that flagged it under that policy set, highest score first; null if none; kept by triggers';

CREATE FUNCTION refresh_flags(clips BIGINT []) RETURNS VOID
LANGUAGE sql AS $$
    UPDATE audio_files af
    SET queue_score = f.score, queue_category = f.categories[1], queue_categories = f.categories
    FROM unnest(clips) AS clip (id)
    CROSS JOIN LATERAL (
        SELECT
            max(c.flag_score) AS score,
            array_agg(c.flag_category ORDER BY c.flag_score DESC NULLS LAST, c.flag_category)
                AS categories
        FROM classifications c
        WHERE c.audio_file_id = clip.id
          AND c.flagged
          AND c.policy = (
              SELECT COALESCE(a.policy, 'unrecorded')
              FROM audio_files own
              LEFT JOIN archives a ON a.id = own.archive_id
              WHERE own.id = clip.id
          )
    ) f
    WHERE af.id = clip.id
      AND (af.queue_score, af.queue_categories) IS DISTINCT FROM (f.score, f.categories)
$$;

COMMENT ON FUNCTION refresh_flags IS 'Brings the flag columns of clips up to date with their classifications';

CREATE FUNCTION keep_flags_of_clip() RETURNS TRIGGER
LANGUAGE plpgsql AS $$
BEGIN
    PERFORM refresh_flags(ARRAY[COALESCE(NEW.audio_file_id, OLD.audio_file_id)]);
    RETURN NULL;
END
$$;

CREATE FUNCTION keep_flags_of_archive() RETURNS TRIGGER
LANGUAGE plpgsql AS $$
BEGIN
    PERFORM refresh_flags(ARRAY(SELECT id FROM audio_files WHERE archive_id = NEW.id));
    RETURN NULL;
END
$$;

-- Few clips are flagged, so few rows pay for this.
CREATE TRIGGER keep_flags_inserted AFTER INSERT ON classifications
FOR EACH ROW WHEN (NEW.flagged) EXECUTE FUNCTION keep_flags_of_clip();

CREATE TRIGGER keep_flags_updated AFTER UPDATE ON classifications
FOR EACH ROW WHEN (OLD.flagged OR NEW.flagged) EXECUTE FUNCTION keep_flags_of_clip();

CREATE TRIGGER keep_flags_deleted AFTER DELETE ON classifications
FOR EACH ROW WHEN (OLD.flagged) EXECUTE FUNCTION keep_flags_of_clip();

CREATE TRIGGER keep_flags AFTER UPDATE OF policy ON archives
FOR EACH ROW WHEN (OLD.policy IS DISTINCT FROM NEW.policy) EXECUTE FUNCTION keep_flags_of_archive();

DO $$ BEGIN
    PERFORM refresh_flags(ARRAY(SELECT audio_file_id FROM classifications WHERE flagged));
END $$;

-- One column says it all, so that the planner can tell how many wait.
ALTER TABLE audio_files ADD COLUMN waits_since DATE GENERATED ALWAYS AS (
    CASE WHEN status = 'flagged' AND queue_categories IS NOT NULL
    THEN (created_at AT TIME ZONE 'UTC')::DATE END
) STORED;

COMMENT ON COLUMN audio_files.waits_since IS 'Day (UTC) of created_at while it waits for review; null if it does not';

-- The queue of a day, highest score first, with what it is filtered by.
CREATE INDEX idx_audio_queue ON audio_files (
    waits_since, queue_score DESC NULLS LAST, id, created_at
) INCLUDE (queue_categories) WHERE waits_since IS NOT NULL;

-- Most clips are transcribed and not flagged, and nobody looks for those by status.
DROP INDEX idx_audio_status_created;

CREATE INDEX idx_audio_status_created ON audio_files (status, created_at DESC)
WHERE status IN ('flagged', 'reviewed', 'failed');

-- Rows lie in the order in which they came.
DROP INDEX idx_audio_created;

CREATE INDEX idx_audio_created ON audio_files USING brin (created_at) WITH (autosummarize = on);

-- Nothing looks a classification up by its number; the other key serves.
ALTER TABLE classifications DROP CONSTRAINT classifications_pkey;

DROP INDEX idx_classifications_flagged;

CREATE INDEX idx_classifications_flagged ON classifications (created_at DESC, flag_category)
WHERE flagged;

-- A fifth of a table, the default, would be months of rows: without statistics of the last
-- day the planner takes it for empty, and rows that were never frozen come all at once later.
ALTER TABLE archives SET (autovacuum_analyze_scale_factor = 0.02);

ALTER TABLE audio_files SET (
    autovacuum_vacuum_scale_factor = 0.01,
    autovacuum_vacuum_insert_scale_factor = 0.002,
    autovacuum_analyze_scale_factor = 0.001,
    autovacuum_analyze_threshold = 1000
);

ALTER TABLE transcripts SET (
    autovacuum_vacuum_scale_factor = 0.01,
    autovacuum_vacuum_insert_scale_factor = 0.002,
    autovacuum_analyze_scale_factor = 0.002,
    autovacuum_analyze_threshold = 1000
);

ALTER TABLE classifications SET (
    autovacuum_vacuum_scale_factor = 0.01,
    autovacuum_vacuum_insert_scale_factor = 0.002,
    autovacuum_analyze_scale_factor = 0.002,
    autovacuum_analyze_threshold = 1000
);

-- As before, in an order that the index gives: today's clips, yesterday's, and those of a
-- day that a clock had wrong, merged.  Only what the index holds is read of a clip until it is
-- known to be wanted.
CREATE OR REPLACE VIEW ra_queue AS
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
