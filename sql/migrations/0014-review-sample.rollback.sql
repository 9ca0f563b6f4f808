DROP VIEW review_sample_heard;

UPDATE review_claims SET chosen_by = mode WHERE chosen_by = 'sample';

ALTER TABLE review_claims
    DROP CONSTRAINT review_claims_chosen_by_check,
    ADD CONSTRAINT review_claims_chosen_by_check CHECK (chosen_by IN ('score', 'category', 'control', 'second', 'adjudication'));

COMMENT ON COLUMN review_claims.chosen_by IS 'Why this item came up: score or category (flagged clips), control (ra_controls), second (drawn), adjudication';

DROP TABLE review_sample, review_strata, review_draw_archives, review_draws;
