-- The results in a volume as views, for the queries beside this file.  In any DuckDB:
--
--     SET VARIABLE volume = '/mnt/data';
--     .read sql/analysis/views.sql
--     .read sql/analysis/flag_rate.sql
--
-- A view without files can't be made; earmark.analysis makes an empty one instead.
-- Folder names are given types, or a policy set named 2026-11-01 would become a date.
-- Times are UTC.

CREATE OR REPLACE VIEW manifests AS
SELECT * REPLACE (encoded_at AT TIME ZONE 'UTC' AS encoded_at)
FROM read_parquet(
    getvariable('volume') || '/manifests/date=*/*.parquet',
    union_by_name = true,
    hive_partitioning = true,
    hive_types = {date: DATE}
);

CREATE OR REPLACE VIEW transcripts AS
SELECT *
FROM read_parquet(
    getvariable('volume') || '/transcripts/asr=*/date=*/*.parquet',
    union_by_name = true,
    hive_partitioning = true,
    hive_types = {asr: VARCHAR, date: DATE}
);

CREATE OR REPLACE VIEW classes AS
SELECT *
FROM read_parquet(
    getvariable('volume') || '/classes/policy=*/date=*/*.parquet',
    union_by_name = true,
    hive_partitioning = true,
    hive_types = {policy: VARCHAR, date: DATE}
);

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
        status: 'VARCHAR',
        reason: 'VARCHAR',
        type: 'VARCHAR',
        bytes: 'BIGINT',
        members: 'MAP(VARCHAR, BIGINT)',
        clips: 'MAP(VARCHAR, BIGINT)',
        flagged: 'MAP(VARCHAR, BIGINT)',
        undecided: 'BIGINT',
        rows: 'MAP(VARCHAR, BIGINT)',
        seconds: 'MAP(VARCHAR, DOUBLE)',
        provenance: 'MAP(VARCHAR, MAP(VARCHAR, VARCHAR))',
        loaded_at: 'VARCHAR'
    }
);
