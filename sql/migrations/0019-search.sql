-- depends: 0018-heard

-- What was said is found by its words. Without a language's own rules, as a clip may have several,
-- and no more of a text than any index entry can hold.

CREATE INDEX idx_transcripts_words ON transcripts
USING gin (TO_TSVECTOR('simple', LEFT(transcript_text, 100000)));
