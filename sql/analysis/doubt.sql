-- How much text may not have been spoken, by language?
--
-- One line per asr set, language and reason.  "clips" are those with text whose most seconds of
-- speech are in the language; "doubtful" are those of them in which Whisper's own thresholds call
-- some of it a loop ("repeated text": compression ratio above 2.4), guesses ("unlikely words":
-- mean log-probability below -1) or nobody's ("perhaps no speech": probability above 0.6), and
-- those whose words ran on to the most that the speech can have ("cut off").  A clip may be
-- doubtful for several reasons.  "example" is the clip that repeats itself most.
-- Transcripts of Earmark 0.2 say nothing of doubts and count as not doubtful.
WITH heard AS (
    SELECT *, COUNT(*) OVER (PARTITION BY asr, language) AS clips
    FROM transcripts
    WHERE text <> ''
),

doubted AS (
    SELECT *, UNNEST(STRING_SPLIT(doubt, ', ')) AS reason
    FROM heard
)

SELECT
    asr,
    language,
    reason,
    ANY_VALUE(clips) AS clips,
    COUNT(*) AS doubtful,
    ROUND(COUNT(*) / ANY_VALUE(clips), 4) AS share,
    ROUND(MEDIAN(compression_ratio), 2) AS compression_ratio_p50,
    ROUND(MEDIAN(confidence), 3) AS confidence_p50,
    ROUND(MEDIAN(no_speech_probability), 3) AS no_speech_probability_p50,
    MAX_BY(archive || ' #' || ordinal, compression_ratio) AS example
FROM doubted
GROUP BY asr, language, reason
ORDER BY asr, clips DESC, language, reason;
