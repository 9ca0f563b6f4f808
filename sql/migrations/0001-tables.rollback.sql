DROP TABLE classifications;

DROP TABLE transcripts;

DROP TABLE audio_files;

DROP TABLE archives;
