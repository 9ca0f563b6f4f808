DROP INDEX idx_transcripts_words;
