-- depends: 0009-skipped-members

-- So that "no speech" can be told from sound that was lost on the way.

ALTER TABLE audio_files
    ADD COLUMN source_rms_dbfs DOUBLE PRECISION,
    ADD COLUMN source_peak_dbfs DOUBLE PRECISION,
    ADD COLUMN opus_rms_dbfs DOUBLE PRECISION,
    ADD COLUMN opus_peak_dbfs DOUBLE PRECISION;

COMMENT ON COLUMN audio_files.source_rms_dbfs IS 'Root mean square of the source''s samples, all channels, in dB relative to full scale; -150 for silence, null if loaded before it was measured';

COMMENT ON COLUMN audio_files.source_peak_dbfs IS 'Largest sample of the source, in dB relative to full scale';

COMMENT ON COLUMN audio_files.opus_rms_dbfs IS 'As source_rms_dbfs, of what became the Opus file';

COMMENT ON COLUMN audio_files.opus_peak_dbfs IS 'As source_peak_dbfs, of what became the Opus file';
