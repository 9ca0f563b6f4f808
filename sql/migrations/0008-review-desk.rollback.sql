CREATE OR REPLACE FUNCTION mark_reviewed(clip BIGINT) RETURNS BOOLEAN
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
DECLARE
    reviewed RECORD;
BEGIN
    UPDATE public.audio_files SET status = 'reviewed'
    WHERE id = clip AND (status = 'flagged' OR status = 'transcribed' AND control)
    RETURNING archive_id, ordinal INTO reviewed;
    IF NOT FOUND THEN
        RETURN FALSE;
    END IF;
    UPDATE public.audio_files SET status = 'reviewed'
    WHERE archive_id = reviewed.archive_id AND duplicate_of = reviewed.ordinal
      AND status IN ('flagged', 'transcribed');
    RETURN TRUE;
END
$$;

COMMENT ON FUNCTION mark_reviewed IS 'Takes a clip that waits for review, flagged or a control, and its duplicates in the archive, out of the queue; false if it does not wait';

DROP INDEX idx_audio_copies;

DROP INDEX idx_audio_duplicates;

DROP FUNCTION return_to_review;

DROP VIEW ra_waiting;

DROP VIEW review_outcomes;

DROP VIEW review_standing;

DROP TABLE review_access, review_waiting, second_reviews, review_decisions, review_claims, sign_in_failures, review_sessions, reviewers;

DROP FUNCTION refuse_change;
