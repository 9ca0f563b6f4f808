ALTER TABLE transcripts DROP COLUMN compression_ratio;
