-- depends: 0002-ra-queue

-- A sign of text that the decoder invented: a loop is far smaller when compressed.
ALTER TABLE transcripts ADD COLUMN compression_ratio DOUBLE PRECISION;

COMMENT ON COLUMN transcripts.compression_ratio IS 'Length of the text by its length under zlib, the highest of the segments; null without text. Whisper takes more than 2.4 for a loop';
