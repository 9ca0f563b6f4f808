-- How fast is each stage, by day?
--
-- One line per stage and day on which it was done, from the receipts.  "hours" are those that
-- jobs were at it, so "clips_per_hour" is that of one job: of one GPU for
-- transcribe and classify.  "audio_hours_per_hour" is how many times faster than listening.
-- Jobs that were killed and begun again count with the time of their last attempt.
WITH jobs AS (
    SELECT
        loaded_at,
        UNNEST([
            {
                stage: 'unpack', position: 1, made_at: provenance['manifest']['made_at'],
                clips: members['total'], seconds: seconds['unpack'], audio: NULL
            },
            {
                stage: 'encode', position: 2, made_at: provenance['manifest']['made_at'],
                clips: members['ok'], seconds: seconds['encode'], audio: NULL
            },
            {
                stage: 'transcribe', position: 3, made_at: provenance['transcripts']['made_at'],
                clips: rows['transcripts']
                    - COALESCE(TRY_CAST(provenance['transcripts']['copied'] AS BIGINT), 0),
                seconds: seconds['transcribe'],
                audio: TRY_CAST(provenance['transcripts']['audio_seconds'] AS DOUBLE)
            },
            {
                stage: 'classify', position: 4, made_at: provenance['classes']['made_at'],
                clips: rows['transcripts'], seconds: seconds['classify'], audio: NULL
            },
            {
                stage: 'load', position: 5, made_at: loaded_at,
                clips: rows['audio_files'], seconds: seconds['load'], audio: NULL
            }
        ], recursive := true)
    FROM receipts
)

SELECT
    (COALESCE(made_at, loaded_at)::TIMESTAMPTZ AT TIME ZONE 'UTC')::DATE AS day,
    stage,
    COUNT(*) AS archives,
    SUM(clips) AS clips,
    ROUND(SUM(seconds) / 3600, 3) AS hours,
    ROUND(SUM(clips) * 3600 / NULLIF(SUM(seconds), 0))::BIGINT AS clips_per_hour,
    ROUND(SUM(audio) / NULLIF(SUM(seconds) FILTER (audio IS NOT NULL), 0), 2) AS audio_hours_per_hour
FROM jobs
WHERE seconds IS NOT NULL AND clips > 0
GROUP BY day, stage
ORDER BY day, MIN(position);
