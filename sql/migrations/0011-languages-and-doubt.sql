-- depends: 0010-loudness

-- Clips in several languages, and why the words of a transcript may not have been spoken.

ALTER TABLE transcripts
    ADD COLUMN languages JSONB,
    ADD COLUMN doubt TEXT;

COMMENT ON COLUMN transcripts.language IS 'ISO 639-1, of the most seconds of speech; null without speech';

COMMENT ON COLUMN transcripts.languages IS 'Array of {language, share}: all languages with their shares of the seconds of speech, the largest first; null without speech, and where Earmark 0.2 transcribed';

COMMENT ON COLUMN transcripts.segments IS 'Array of {start, end, text, language, avg_logprob, doubt}; times in seconds; Earmark 0.2 wrote neither language nor doubt';

COMMENT ON COLUMN transcripts.doubt IS 'Why words may not have been spoken, by Whisper''s own thresholds, of any segment: "repeated text" (compression ratio above 2.4), "unlikely words" (mean log-probability below -1), "perhaps no speech" (probability above 0.6), and "cut off" where words ran on to the most that the speech can have, joined by commas; null if nothing is doubtful';

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
    q.queue_categories AS flag_categories,
    -- Codes alone.
    jsonb_path_query_array(t.languages, '$[*].language') AS languages,
    t.compression_ratio,
    t.no_speech_probability,
    t.doubt
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

COMMENT ON COLUMN ra_queue.languages IS 'All languages, the largest share first';

CREATE OR REPLACE VIEW ra_controls AS
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
    t.confidence,
    -- Codes alone.
    jsonb_path_query_array(t.languages, '$[*].language') AS languages,
    t.compression_ratio,
    t.no_speech_probability,
    t.doubt
FROM audio_files af
LEFT JOIN archives a ON a.id = af.archive_id
JOIN transcripts t ON t.audio_file_id = af.id AND t.asr = COALESCE(a.asr, 'unrecorded')
WHERE af.control
  AND af.status = 'transcribed'
  AND af.copied_from IS NULL
  AND af.created_at > NOW() - INTERVAL '24 hours'
ORDER BY af.source_sha256, af.id;
