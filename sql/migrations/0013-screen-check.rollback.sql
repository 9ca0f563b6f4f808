ALTER TABLE classifications
    DROP CONSTRAINT classifications_status_check,
    ADD CONSTRAINT classifications_status_check CHECK (status IN ('ok', 'unparsed', 'failed', 'unasked')) NOT VALID;
