ALTER TABLE review_decisions DROP COLUMN heard;

ALTER TABLE review_drafts DROP COLUMN heard;
