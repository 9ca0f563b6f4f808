-- depends: 0011-languages-and-doubt

-- A screen may keep a clip from the policies: a category that was not asked about is none that
-- said no, and what was asked all the same was drawn with a probability.

ALTER TABLE classifications
    ADD COLUMN screen_score DOUBLE PRECISION,
    ADD COLUMN asked_probability DOUBLE PRECISION NOT NULL DEFAULT 1,
    DROP CONSTRAINT classifications_status_check,
    ADD CONSTRAINT classifications_status_check CHECK (status IN ('ok', 'unparsed', 'failed', 'unasked')) NOT VALID;

COMMENT ON COLUMN classifications.flagged IS 'True only if a score was read and reached the threshold. False says "not flagged" only where status is ok; elsewhere there was no answer, or the policy was not asked, and flag_score is null';

COMMENT ON COLUMN classifications.status IS 'ok; unparsed: an answer that could not be read; failed: no answer; unasked: the screen kept the clip from this policy';

COMMENT ON COLUMN classifications.screen_score IS 'Score of the screening policy about the clip, 0 to 1; null without a screen, without speech, and if it had no answer';

COMMENT ON COLUMN classifications.asked_probability IS 'Probability with which the policy was to be asked, given screen_score: 1 from the screen''s threshold on and without a screen, classify.screen.audit_fraction below; weight answers by its inverse';

COMMENT ON COLUMN audio_files.status IS 'pending: kept, not transcribed (not selected); transcribed: no category flagged, though some may be undecided or unasked (classifications.status); flagged; reviewed: by a person, no load changes it; failed: see error. A duplicate has the status of its original';
