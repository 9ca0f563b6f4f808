-- depends: 0007-provenance

-- The review desk: who reviews, who has which item, and what was decided; docs/review.md.

CREATE TABLE reviewers (
    id BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name TEXT NOT NULL UNIQUE CHECK (name ~ '^[a-z0-9][a-z0-9._-]{0,63}$'),
    role TEXT NOT NULL CHECK (role IN ('reviewer', 'lead')),
    password_hash TEXT NOT NULL,
    active BOOLEAN NOT NULL DEFAULT TRUE,
    created_at TIMESTAMPTZ NOT NULL DEFAULT NOW(),
    hide_text BOOLEAN NOT NULL DEFAULT FALSE,
    muted BOOLEAN NOT NULL DEFAULT FALSE,
    opted_out TEXT [] NOT NULL DEFAULT '{}',
    break_minutes INTEGER NOT NULL DEFAULT 45 CHECK (break_minutes BETWEEN 5 AND 240)
);

COMMENT ON TABLE reviewers IS 'Accounts of the review desk, made by `earmark reviewer add`';

COMMENT ON COLUMN reviewers.role IS 'lead: may adjudicate, and see progress, agreement, the log and exports';

COMMENT ON COLUMN reviewers.password_hash IS 'Argon2id, in PHC string format';

COMMENT ON COLUMN reviewers.hide_text IS 'Transcripts stay hidden until asked for';

COMMENT ON COLUMN reviewers.opted_out IS 'Categories whose items this person is never given';

COMMENT ON COLUMN reviewers.break_minutes IS 'Minutes of work without a pause after which a break is suggested';

CREATE TABLE review_sessions (
    token_sha256 BYTEA PRIMARY KEY,
    reviewer_id BIGINT NOT NULL REFERENCES reviewers (id) ON DELETE CASCADE,
    created_at TIMESTAMPTZ NOT NULL DEFAULT NOW(),
    seen_at TIMESTAMPTZ NOT NULL DEFAULT NOW()
);

COMMENT ON TABLE review_sessions IS 'Who is signed in; the token itself is only in the browser';

CREATE INDEX idx_review_sessions_reviewer ON review_sessions (reviewer_id);

CREATE TABLE sign_in_failures (
    name TEXT NOT NULL,
    address TEXT NOT NULL,
    failed_at TIMESTAMPTZ NOT NULL DEFAULT NOW()
);

COMMENT ON TABLE sign_in_failures IS 'Failed sign-ins of the last hour, by which more are refused';

CREATE INDEX idx_sign_in_failures ON sign_in_failures (failed_at);

CREATE TABLE review_claims (
    audio_file_id BIGINT PRIMARY KEY REFERENCES audio_files (id) ON DELETE CASCADE,
    reviewer_id BIGINT NOT NULL UNIQUE REFERENCES reviewers (id) ON DELETE CASCADE,
    round TEXT NOT NULL CHECK (round IN ('first', 'second', 'adjudication')),
    mode TEXT NOT NULL DEFAULT 'score' CHECK (mode IN ('score', 'category', 'control', 'adjudication')),
    category TEXT,
    chosen_by TEXT NOT NULL CHECK (chosen_by IN ('score', 'category', 'control', 'second', 'adjudication')),
    asr TEXT NOT NULL DEFAULT 'unrecorded',
    policy TEXT NOT NULL DEFAULT 'unrecorded',
    claimed_at TIMESTAMPTZ NOT NULL DEFAULT NOW(),
    expires_at TIMESTAMPTZ NOT NULL
);

COMMENT ON TABLE review_claims IS 'Who has which item open: one person an item, one item a person. Past expires_at anybody may take it';

COMMENT ON COLUMN review_claims.mode IS 'What the person asked for, and will go on with';

COMMENT ON COLUMN review_claims.chosen_by IS 'Why this item came up: score or category (flagged clips), control (ra_controls), second (drawn), adjudication';

COMMENT ON COLUMN review_claims.asr IS 'Speech recognition set of the transcript that is shown, whatever is loaded meanwhile';

COMMENT ON COLUMN review_claims.policy IS 'Policy set that is shown, likewise';

CREATE TABLE review_decisions (
    id BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    audio_file_id BIGINT NOT NULL REFERENCES audio_files (id) ON DELETE CASCADE,
    reviewer_id BIGINT NOT NULL REFERENCES reviewers (id),
    round TEXT NOT NULL CHECK (round IN ('first', 'second', 'adjudication')),
    chosen_by TEXT NOT NULL,
    verdict TEXT NOT NULL CHECK (verdict IN ('reportable', 'not reportable', 'unsure', 'skipped', 'undone')),
    categories TEXT [] NOT NULL DEFAULT '{}',
    transcript_wrong BOOLEAN NOT NULL DEFAULT FALSE,
    not_speech BOOLEAN NOT NULL DEFAULT FALSE,
    wrong_language BOOLEAN NOT NULL DEFAULT FALSE,
    reason TEXT,
    note TEXT,
    asr TEXT NOT NULL DEFAULT 'unrecorded',
    policy TEXT NOT NULL DEFAULT 'unrecorded',
    flag_score DOUBLE PRECISION,
    flag_categories TEXT [],
    claimed_at TIMESTAMPTZ NOT NULL,
    decided_at TIMESTAMPTZ NOT NULL DEFAULT CLOCK_TIMESTAMP(),
    CHECK ((verdict = 'skipped') = (reason IS NOT NULL)),
    CHECK (verdict = 'reportable' OR categories = '{}')
);

COMMENT ON TABLE review_decisions IS 'What people decided, one row each time; rows are only ever added. Of one person about one clip the newest counts';

COMMENT ON COLUMN review_decisions.verdict IS 'skipped: left to somebody else; undone: the one before no longer counts';

COMMENT ON COLUMN review_decisions.categories IS 'What it falls under by this person''s judgement, sorted; empty unless reportable';

COMMENT ON COLUMN review_decisions.reason IS 'Why it was skipped';

COMMENT ON COLUMN review_decisions.asr IS 'Speech recognition set of the transcript that was shown';

COMMENT ON COLUMN review_decisions.policy IS 'Policy set that was shown';

COMMENT ON COLUMN review_decisions.flag_score IS 'The highest score of that set among the categories that flagged it; null for a control';

COMMENT ON COLUMN review_decisions.claimed_at IS 'When the item was opened';

CREATE INDEX idx_review_decisions_clip ON review_decisions (audio_file_id, reviewer_id, id DESC);

CREATE INDEX idx_review_decisions_reviewer ON review_decisions (reviewer_id, id DESC);

CREATE INDEX idx_review_decisions_decided ON review_decisions (decided_at);

-- What the desk asks of a clip: who else uploaded it.
CREATE INDEX idx_audio_duplicates ON audio_files (archive_id, duplicate_of) WHERE duplicate_of IS NOT NULL;

CREATE INDEX idx_audio_copies ON audio_files (copied_from) WHERE copied_from IS NOT NULL;

CREATE FUNCTION refuse_change() RETURNS TRIGGER
LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION '% is only ever added to', TG_TABLE_NAME;
END
$$;

CREATE TRIGGER append_only BEFORE UPDATE ON review_decisions
FOR EACH ROW EXECUTE FUNCTION refuse_change();

CREATE TABLE second_reviews (
    audio_file_id BIGINT PRIMARY KEY REFERENCES audio_files (id) ON DELETE CASCADE,
    probability DOUBLE PRECISION NOT NULL CHECK (probability > 0 AND probability <= 1),
    drawn_at TIMESTAMPTZ NOT NULL DEFAULT NOW()
);

COMMENT ON TABLE second_reviews IS 'Clips that a second person is to hear without knowing of the first';

COMMENT ON COLUMN second_reviews.probability IS 'desk.second_review_fraction when it was drawn';

CREATE TABLE review_waiting (
    audio_file_id BIGINT PRIMARY KEY REFERENCES audio_files (id) ON DELETE CASCADE,
    round TEXT NOT NULL CHECK (round IN ('second', 'adjudication')),
    since TIMESTAMPTZ NOT NULL DEFAULT NOW()
);

COMMENT ON TABLE review_waiting IS 'Reviewed clips that wait for another person: what review_outcomes does not call settled, so that nobody has to look through all of it';

CREATE TABLE review_access (
    id BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    reviewer_id BIGINT NOT NULL REFERENCES reviewers (id),
    audio_file_id BIGINT,
    what TEXT NOT NULL CHECK (what IN ('page', 'audio', 'export')),
    detail TEXT,
    at TIMESTAMPTZ NOT NULL DEFAULT NOW()
);

COMMENT ON TABLE review_access IS 'Who saw or heard what; outlives the clips';

COMMENT ON COLUMN review_access.detail IS 'Of audio, the range of bytes asked for, or that it was playing; of an export, its kind and days';

CREATE INDEX idx_review_access_reviewer ON review_access (reviewer_id, at);

CREATE INDEX idx_review_access_clip ON review_access (audio_file_id);

CREATE VIEW review_standing AS
SELECT * FROM (
    SELECT DISTINCT ON (audio_file_id, reviewer_id) *
    FROM review_decisions
    ORDER BY audio_file_id, reviewer_id, id DESC
) AS newest
WHERE verdict IN ('reportable', 'not reportable', 'unsure');

COMMENT ON VIEW review_standing IS 'The decisions that count: the newest of each person about each clip, unless it is undone or skipped';

CREATE VIEW review_outcomes AS
SELECT
    of_clip.*,
    CASE state
        WHEN 'settled' THEN COALESCE(adjudicated_verdict, first_verdict)
    END AS verdict,
    CASE state
        WHEN 'settled' THEN COALESCE(adjudicated_categories, first_categories)
    END AS categories
FROM (
    SELECT
        f.audio_file_id,
        f.decided_at,
        f.reviewer_id AS first_reviewer_id,
        f.verdict AS first_verdict,
        f.categories AS first_categories,
        s.reviewer_id AS second_reviewer_id,
        s.verdict AS second_verdict,
        s.categories AS second_categories,
        a.reviewer_id AS adjudicator_id,
        a.verdict AS adjudicated_verdict,
        a.categories AS adjudicated_categories,
        sr.probability AS second_review_probability,
        CASE
            WHEN a.verdict IS NOT NULL THEN 'settled'
            WHEN f.verdict = 'unsure' OR s.verdict = 'unsure'
                OR s.verdict <> f.verdict OR s.categories <> f.categories
                THEN 'disputed'
            WHEN sr.audio_file_id IS NOT NULL AND s.verdict IS NULL THEN 'waits for second review'
            ELSE 'settled'
        END AS state
    FROM review_standing f
    LEFT JOIN second_reviews sr ON sr.audio_file_id = f.audio_file_id
    LEFT JOIN review_standing s ON s.audio_file_id = f.audio_file_id AND s.round = 'second'
    LEFT JOIN review_standing a ON a.audio_file_id = f.audio_file_id AND a.round = 'adjudication'
    WHERE f.round = 'first'
) AS of_clip;

COMMENT ON VIEW review_outcomes IS 'Where each reviewed clip stands: settled, waits for second review, or disputed (two people differ, or somebody is unsure) until a lead adjudicates; verdict is null until it is settled';

-- What ra_queue shows, without the texts: quick to count.
CREATE VIEW ra_waiting AS
SELECT id, queue_score, queue_categories FROM audio_files
WHERE waits_since >= (NOW() AT TIME ZONE 'UTC')::DATE - 1
  AND (waits_since > (NOW() AT TIME ZONE 'UTC')::DATE OR created_at > NOW() - INTERVAL '24 hours');

COMMENT ON VIEW ra_waiting IS 'The clips of ra_queue, in no order and without what is shown of them';

-- As before, and whatever a clip's status became by a load while a person was deciding about it.
CREATE OR REPLACE FUNCTION mark_reviewed(clip BIGINT) RETURNS BOOLEAN
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
DECLARE
    reviewed RECORD;
BEGIN
    UPDATE public.audio_files SET status = 'reviewed'
    WHERE id = clip AND status <> 'reviewed' AND (
        status = 'flagged' OR status = 'transcribed' AND control
        OR EXISTS (SELECT FROM public.review_standing s WHERE s.audio_file_id = clip)
    )
    RETURNING archive_id, ordinal INTO reviewed;
    IF NOT FOUND THEN
        RETURN FALSE;
    END IF;
    UPDATE public.audio_files SET status = 'reviewed'
    WHERE archive_id = reviewed.archive_id AND duplicate_of = reviewed.ordinal
      AND status IN ('flagged', 'transcribed');
    RETURN TRUE;
END
$$;

COMMENT ON FUNCTION mark_reviewed IS 'Takes a clip that waits for review, flagged or a control, or about which a decision stands, and its duplicates in the archive, out of the queue; false if it is none';

-- The counterpart of mark_reviewed, for a decision that was undone.
CREATE FUNCTION return_to_review(clip BIGINT) RETURNS BOOLEAN
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
DECLARE
    returned RECORD;
BEGIN
    UPDATE public.audio_files
    SET status = CASE WHEN queue_categories IS NULL THEN 'transcribed' ELSE 'flagged' END
    WHERE id = clip AND status = 'reviewed'
      AND NOT EXISTS (SELECT FROM public.review_standing s WHERE s.audio_file_id = clip)
    RETURNING archive_id, ordinal, status INTO returned;
    IF NOT FOUND THEN
        RETURN FALSE;
    END IF;
    UPDATE public.audio_files SET status = returned.status
    WHERE archive_id = returned.archive_id AND duplicate_of = returned.ordinal
      AND status = 'reviewed';
    RETURN TRUE;
END
$$;

REVOKE ALL ON FUNCTION return_to_review FROM PUBLIC;

COMMENT ON FUNCTION return_to_review IS 'Puts a reviewed clip about which no decision stands, and its duplicates in the archive, back into the queue; false if it is none';
