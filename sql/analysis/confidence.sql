-- How sure is speech recognition, by language?
--
-- One line per asr set and language, quantiles over its transcripts, where one in two languages
-- counts in both, with the hours of each.  Confidence is exp(mean log-probability), 0 to 1.  A
-- language with a low median, or with a high probability of no speech, is one whose flags deserve
-- doubt.
WITH heard AS (
    SELECT
        * EXCLUDE (language),
        UNNEST(COALESCE(
            languages, [{language: COALESCE(language, 'no speech'), share: 1}]
        ), recursive := TRUE)
    FROM transcripts
    WHERE status = 'ok'
)

SELECT
    asr,
    language,
    COUNT(*) AS clips,
    ROUND(SUM(share * speech_seconds) / 3600, 3) AS speech_hours,
    ROUND(QUANTILE_CONT(confidence, 0.1), 3) AS confidence_p10,
    ROUND(QUANTILE_CONT(confidence, 0.5), 3) AS confidence_p50,
    ROUND(QUANTILE_CONT(confidence, 0.9), 3) AS confidence_p90,
    ROUND(MEDIAN(language_probability), 3) AS language_probability_p50,
    ROUND(MEDIAN(no_speech_probability), 3) AS no_speech_probability_p50
FROM heard
GROUP BY asr, language
ORDER BY asr, clips DESC, language;
