-- The results in a volume as views, for the queries beside this file.  In any DuckDB:
--
--     SET VARIABLE volume = '/mnt/data';
--     .read sql/analysis/views.sql
--     .read sql/analysis/flag_rate.sql
--
-- A view without files can't be made; earmark.record.analysis makes an empty one instead.
-- Folder names are given types, or a policy set named 2026-11-01 would become a date.
-- Times are UTC.
--
-- To ask about some days only (of the archives; both ends count):
--
--     SET VARIABLE since = '2026-11-01';
--     SET VARIABLE until = '2026-11-30';

CREATE OR REPLACE VIEW manifests AS
SELECT * REPLACE (encoded_at AT TIME ZONE 'UTC' AS encoded_at)
FROM read_parquet(
    getvariable('volume') || '/manifests/date=*/*.parquet',
    union_by_name = true,
    hive_partitioning = true,
    hive_types = {date: DATE}
)
WHERE date BETWEEN COALESCE(getvariable('since'), '0001-01-01')::DATE
  AND COALESCE(getvariable('until'), '9999-12-31')::DATE
UNION ALL BY NAME SELECT NULL::DOUBLE AS source_rms_dbfs, NULL::DOUBLE AS source_peak_dbfs, NULL::DOUBLE AS opus_rms_dbfs, NULL::DOUBLE AS opus_peak_dbfs, NULL::VARCHAR AS metadata WHERE FALSE;

CREATE OR REPLACE VIEW transcripts AS
SELECT *
FROM read_parquet(
    getvariable('volume') || '/transcripts/asr=*/date=*/*.parquet',
    union_by_name = true,
    hive_partitioning = true,
    hive_types = {asr: VARCHAR, date: DATE}
)
WHERE date BETWEEN COALESCE(getvariable('since'), '0001-01-01')::DATE
  AND COALESCE(getvariable('until'), '9999-12-31')::DATE
UNION ALL BY NAME SELECT NULL::STRUCT("language" VARCHAR, "share" DOUBLE)[] AS languages, NULL::VARCHAR AS doubt WHERE FALSE;

CREATE OR REPLACE VIEW classes AS
SELECT *
FROM read_parquet(
    getvariable('volume') || '/classes/policy=*/date=*/*.parquet',
    union_by_name = true,
    hive_partitioning = true,
    hive_types = {policy: VARCHAR, date: DATE}
)
WHERE date BETWEEN COALESCE(getvariable('since'), '0001-01-01')::DATE
  AND COALESCE(getvariable('until'), '9999-12-31')::DATE
UNION ALL BY NAME SELECT NULL::DOUBLE AS screen_score, NULL::DOUBLE AS asked_probability WHERE FALSE;

CREATE OR REPLACE VIEW receipts AS
SELECT *
FROM read_json(
    getvariable('volume') || '/processed/date=*/*.json',
    hive_partitioning = false,
    columns = {
        archive: 'VARCHAR',
        date: 'DATE',
        asr: 'VARCHAR',
        policy: 'VARCHAR',
        "order": 'VARCHAR',
        status: 'VARCHAR',
        reason: 'VARCHAR',
        type: 'VARCHAR',
        bytes: 'BIGINT',
        modified_ns: 'BIGINT',
        members: 'MAP(VARCHAR, BIGINT)',
        clips: 'MAP(VARCHAR, BIGINT)',
        flagged: 'MAP(VARCHAR, BIGINT)',
        judged: 'MAP(VARCHAR, BIGINT)',
        skipped: 'MAP(VARCHAR, BIGINT)',
        undecided: 'BIGINT',
        unasked: 'BIGINT',
        rows: 'MAP(VARCHAR, BIGINT)',
        seconds: 'MAP(VARCHAR, DOUBLE)',
        provenance: 'MAP(VARCHAR, MAP(VARCHAR, VARCHAR))',
        loaded_at: 'VARCHAR'
    }
)
WHERE date BETWEEN COALESCE(getvariable('since'), '0001-01-01')::DATE
  AND COALESCE(getvariable('until'), '9999-12-31')::DATE;

COMMENT ON COLUMN receipts.archive IS 'Whole file name of the archive';
COMMENT ON COLUMN receipts.date IS 'Day of the archive''s own modification time';
COMMENT ON COLUMN receipts.asr IS 'Speech recognition set';
COMMENT ON COLUMN receipts.policy IS 'Policy set';
COMMENT ON COLUMN receipts."order" IS 'source.order of the run; null where Earmark did not yet say';
COMMENT ON COLUMN receipts.status IS 'ok; partial: cut short or damaged, what could be saved was; failed: nothing could';
COMMENT ON COLUMN receipts.reason IS 'Why the status is not ok; null if it is';
COMMENT ON COLUMN receipts.type IS 'What the archive is by its content; null if nobody could look';
COMMENT ON COLUMN receipts.bytes IS 'Size of the archive; null if it is not known';
COMMENT ON COLUMN receipts.modified_ns IS 'When the archive at the source was last modified; null where Earmark did not yet say';
COMMENT ON COLUMN receipts.members IS 'How many there are: total, ok, failed, skipped; and among ok those that are duplicates';
COMMENT ON COLUMN receipts.clips IS 'How many there are by audio_files.status; transcribed means transcribed and not flagged';
COMMENT ON COLUMN receipts.flagged IS 'Clips that were flagged, by category';
COMMENT ON COLUMN receipts.judged IS 'Clips that got an answer, by category';
COMMENT ON COLUMN receipts.skipped IS 'Members without a clip, by reason';
COMMENT ON COLUMN receipts.undecided IS 'Answers that failed or could not be read';
COMMENT ON COLUMN receipts.unasked IS 'Clips that the screen kept from the policies';
COMMENT ON COLUMN receipts.rows IS 'Rows in the database, by table; transcripts are all that were heard, flagged or not';
COMMENT ON COLUMN receipts.seconds IS 'Time that each stage took; null for one that did not tell';
COMMENT ON COLUMN receipts.provenance IS 'What made the files, by file, as in the table provenance';
COMMENT ON COLUMN receipts.loaded_at IS 'When a load last changed the archive''s row, ISO 8601';

-- The policy sets in use: of which asr set's transcripts each one is made, and from which score
-- on a clip passes its screen; null without one.
CREATE OR REPLACE VIEW policies AS
SELECT
    PARSE_FILENAME(filename, true) AS policy,
    "asr.name" AS asr,
    thresholds['any_policy'] AS screen_threshold
FROM read_json(
    getvariable('volume') || '/state/policies/*.json',
    columns = {'asr.name': 'VARCHAR', thresholds: 'MAP(VARCHAR, DOUBLE)'},
    filename = true
);

COMMENT ON COLUMN policies.policy IS 'Name of the policy set';
COMMENT ON COLUMN policies.asr IS 'Of which speech recognition set''s transcripts it is made; null if it is not known';
COMMENT ON COLUMN policies.screen_threshold IS 'Score from which on a clip passes its screen; null without one';

-- One row per policy set, category and upload that was heard.  An upload that repeats
-- another one of its archive has that one's answer.  Of what the screen kept out, "is_out", a
-- share was asked all the same, with "asked_probability"; the rest has the status unasked.
CREATE OR REPLACE VIEW answers AS
SELECT
    c.policy,
    t.asr,
    c.category,
    m.date,
    m.archive,
    m.ordinal,
    m.source_sha256 AS content,
    m.inclusion_probability,
    t.language,
    -- All that are spoken; those of Earmark 0.2 are one.
    COALESCE(
        LIST_TRANSFORM(t.languages, lambda each: each.language), [COALESCE(t.language, 'no speech')]
    ) AS languages,
    c.status,
    c.flagged,
    c.score,
    c.threshold,
    c.screen_score,
    COALESCE(c.asked_probability, 1) AS asked_probability,
    COALESCE(c.asked_probability < 1 OR c.screen_score < policies.screen_threshold, FALSE) AS is_out
FROM manifests m
JOIN transcripts t
    ON (t.date, t.archive, t.ordinal) = (m.date, m.archive, COALESCE(m.duplicate_of, m.ordinal))
JOIN classes c ON (c.date, c.archive, c.ordinal) = (t.date, t.archive, t.ordinal)
LEFT JOIN policies ON policies.policy = c.policy
WHERE m.selected AND COALESCE(policies.asr, t.asr) = t.asr;

COMMENT ON COLUMN answers.policy IS 'Policy set';
COMMENT ON COLUMN answers.asr IS 'Speech recognition set';
COMMENT ON COLUMN answers.category IS 'As classes.category';
COMMENT ON COLUMN answers.date IS 'Day of the archive';
COMMENT ON COLUMN answers.archive IS 'As manifests.archive';
COMMENT ON COLUMN answers.ordinal IS 'As manifests.ordinal, of the upload';
COMMENT ON COLUMN answers.content IS 'As manifests.source_sha256';
COMMENT ON COLUMN answers.inclusion_probability IS 'As manifests.inclusion_probability';
COMMENT ON COLUMN answers.language IS 'As transcripts.language; null without speech';
COMMENT ON COLUMN answers.languages IS 'All that are spoken, or ''no speech'' alone';
COMMENT ON COLUMN answers.status IS 'As classes.status';
COMMENT ON COLUMN answers.flagged IS 'As classes.flagged; null unless status is ok';
COMMENT ON COLUMN answers.score IS 'As classes.score; null unless status is ok';
COMMENT ON COLUMN answers.threshold IS 'As classes.threshold';
COMMENT ON COLUMN answers.screen_score IS 'As classes.screen_score; null without a screen';
COMMENT ON COLUMN answers.asked_probability IS 'As classes.asked_probability, 1 for null there';
COMMENT ON COLUMN answers.is_out IS 'The screen would keep the clip from this policy';
