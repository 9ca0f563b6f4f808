ALTER TABLE archives DROP COLUMN skipped_reasons;
