-- How sure is speech recognition, by language?
--
-- One line per asr set and language, quantiles over its transcripts.  Confidence is
-- exp(mean log-probability), 0 to 1.  A language with a low median, or with a high
-- probability of no speech, is one whose flags deserve doubt.
SELECT
    asr,
    COALESCE(language, 'no speech') AS language,
    COUNT(*) AS clips,
    ROUND(SUM(speech_seconds) / 3600, 3) AS speech_hours,
    ROUND(QUANTILE_CONT(confidence, 0.1), 3) AS confidence_p10,
    ROUND(QUANTILE_CONT(confidence, 0.5), 3) AS confidence_p50,
    ROUND(QUANTILE_CONT(confidence, 0.9), 3) AS confidence_p90,
    ROUND(MEDIAN(language_probability), 3) AS language_probability_p50,
    ROUND(MEDIAN(no_speech_probability), 3) AS no_speech_probability_p50
FROM transcripts
WHERE status = 'ok'
GROUP BY asr, language
ORDER BY asr, clips DESC, language;
