-- depends: 0016-begun

-- What somebody has written and ticked about an item that they have not decided yet.

CREATE TABLE review_drafts (
    audio_file_id BIGINT NOT NULL REFERENCES audio_files (id) ON DELETE CASCADE,
    reviewer_id BIGINT NOT NULL REFERENCES reviewers (id) ON DELETE CASCADE,
    note TEXT NOT NULL DEFAULT '',
    categories TEXT [],
    transcript_wrong BOOLEAN NOT NULL DEFAULT FALSE,
    not_speech BOOLEAN NOT NULL DEFAULT FALSE,
    wrong_language BOOLEAN NOT NULL DEFAULT FALSE,
    put_back_at TIMESTAMPTZ,
    PRIMARY KEY (audio_file_id, reviewer_id)
);

COMMENT ON TABLE review_drafts IS 'What a person left of an item that is not decided; gone with the decision and with the clip';

COMMENT ON COLUMN review_drafts.categories IS 'Ticked, sorted; null while the person has changed nothing in the form';

COMMENT ON COLUMN review_drafts.put_back_at IS 'When the person put it back, so that it is not the next that they are given';

CREATE INDEX idx_review_drafts_reviewer ON review_drafts (reviewer_id);
