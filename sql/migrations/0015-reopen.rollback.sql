ALTER TABLE review_decisions DROP COLUMN undone_by;
