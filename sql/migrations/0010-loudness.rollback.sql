ALTER TABLE audio_files
    DROP COLUMN source_rms_dbfs,
    DROP COLUMN source_peak_dbfs,
    DROP COLUMN opus_rms_dbfs,
    DROP COLUMN opus_peak_dbfs;
