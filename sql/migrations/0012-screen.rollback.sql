-- Without the screen's columns a row without an answer would say that the model failed.
DELETE FROM classifications WHERE status = 'unasked';

ALTER TABLE classifications
    DROP COLUMN screen_score,
    DROP COLUMN asked_probability,
    DROP CONSTRAINT classifications_status_check,
    ADD CONSTRAINT classifications_status_check CHECK (status IN ('ok', 'unparsed', 'failed'));

COMMENT ON COLUMN classifications.flagged IS 'True only if a score was read and reached the threshold. False says "not flagged" only where status is ok; elsewhere there was no answer and flag_score is null';

COMMENT ON COLUMN classifications.status IS 'ok; unparsed: an answer that could not be read; failed: no answer';

COMMENT ON COLUMN audio_files.status IS 'pending: kept, not transcribed (not selected); transcribed: no category flagged, though some may be undecided (classifications.status); flagged; reviewed: by a person, no load changes it; failed: see error. A duplicate has the status of its original';
