-- Which archives took longest, and in which stage?
--
-- One line per archive, from the receipts: seconds of each stage, and seconds per clip
-- that was transcribed, flagged or not.
WITH timed AS (
    SELECT
        *,
        COALESCE(seconds['unpack'], 0) + COALESCE(seconds['encode'], 0)
            + COALESCE(seconds['transcribe'], 0) + COALESCE(seconds['classify'], 0)
            + COALESCE(seconds['load'], 0) AS total
    FROM receipts
)
SELECT
    archive,
    date,
    status,
    ROUND(bytes / 1e6, 1) AS megabytes,
    members['total'] AS members,
    rows['transcripts'] AS transcribed,
    seconds['unpack'] AS unpack_seconds,
    seconds['encode'] AS encode_seconds,
    seconds['transcribe'] AS transcribe_seconds,
    seconds['classify'] AS classify_seconds,
    seconds['load'] AS load_seconds,
    total AS total_seconds,
    ROUND(total / NULLIF(rows['transcripts'], 0), 3) AS seconds_per_clip
FROM timed
ORDER BY total DESC, archive
LIMIT 20;
