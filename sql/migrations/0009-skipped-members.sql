-- depends: 0008-review-desk

-- Why members of an archive have no row in audio_files, so that none is left out without a trace.

ALTER TABLE archives ADD COLUMN skipped_reasons JSONB NOT NULL DEFAULT '{}';

COMMENT ON COLUMN archives.skipped_reasons IS 'Among skipped: how many members for each reason; one that begins with "audio of a format that is not taken" is of audio, the others are not';
