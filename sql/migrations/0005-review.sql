-- depends: 0004-year-of-rows

-- What a reviewer may change, and nothing else: runs with the rights of its owner.
CREATE FUNCTION mark_reviewed(clip BIGINT) RETURNS BOOLEAN
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
DECLARE
    reviewed RECORD;
BEGIN
    UPDATE public.audio_files SET status = 'reviewed'
    WHERE id = clip AND status = 'flagged'
    RETURNING archive_id, ordinal INTO reviewed;
    IF NOT FOUND THEN
        RETURN FALSE;
    END IF;
    UPDATE public.audio_files SET status = 'reviewed'
    WHERE archive_id = reviewed.archive_id AND duplicate_of = reviewed.ordinal
      AND status = 'flagged';
    RETURN TRUE;
END
$$;

REVOKE ALL ON FUNCTION mark_reviewed FROM PUBLIC;

COMMENT ON FUNCTION mark_reviewed IS 'Takes a flagged clip, and its duplicates in the archive, out of the queue; false if it does not wait';
