-- depends: 0014-review-sample

-- A lead may take back what somebody decided; the row says who did.

ALTER TABLE review_decisions
    ADD COLUMN undone_by BIGINT REFERENCES reviewers (id),
    ADD CONSTRAINT review_decisions_undone_by_check CHECK (undone_by IS NULL OR verdict = 'undone');

COMMENT ON COLUMN review_decisions.undone_by IS 'The lead who took the decision of reviewer_id back; null if they did so themselves';
