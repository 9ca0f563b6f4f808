-- depends: 0021-comments

-- Browsers in which somebody has signed in before, and links to a new password.

CREATE TABLE review_devices (
    token_sha256 BYTEA NOT NULL,
    reviewer_id BIGINT NOT NULL REFERENCES reviewers (id) ON DELETE CASCADE,
    used_at TIMESTAMPTZ NOT NULL DEFAULT now(),
    PRIMARY KEY (token_sha256, reviewer_id)
);

COMMENT ON TABLE review_devices IS 'Browsers in which a person has signed in before: others who guess the password can''t keep them out there';

COMMENT ON COLUMN review_devices.token_sha256 IS 'Of a secret that only the browser has';

COMMENT ON COLUMN review_devices.reviewer_id IS 'Who signed in';

COMMENT ON COLUMN review_devices.used_at IS 'Of the last sign-in; forgotten after 180 days, and with the password';

CREATE INDEX idx_review_devices_reviewer ON review_devices (reviewer_id);

CREATE TABLE review_links (
    token_sha256 BYTEA PRIMARY KEY,
    reviewer_id BIGINT NOT NULL REFERENCES reviewers (id) ON DELETE CASCADE,
    made_at TIMESTAMPTZ NOT NULL DEFAULT now()
);

COMMENT ON TABLE review_links IS 'Links by which a person can choose a password, once and within a day';

COMMENT ON COLUMN review_links.token_sha256 IS 'Of the secret that the link holds';

COMMENT ON COLUMN review_links.reviewer_id IS 'Whose password';

COMMENT ON COLUMN review_links.made_at IS 'When it was made';

CREATE INDEX idx_review_links_reviewer ON review_links (reviewer_id);
