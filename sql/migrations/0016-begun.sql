-- depends: 0015-reopen

-- What somebody began to review does not leave the desk's queue by the clock.

CREATE TABLE review_begun (
    audio_file_id BIGINT PRIMARY KEY REFERENCES audio_files (id) ON DELETE CASCADE,
    since TIMESTAMPTZ NOT NULL DEFAULT NOW()
);

COMMENT ON TABLE review_begun IS 'Clips that were given to a first person, or taken back, and are not decided; once they are older than a day, they come before all others';

INSERT INTO review_begun (audio_file_id, since)
SELECT audio_file_id, MIN(claimed_at) FROM (
    SELECT audio_file_id, claimed_at FROM review_claims WHERE round = 'first'
    UNION ALL
    SELECT d.audio_file_id, d.claimed_at
    FROM review_decisions d JOIN audio_files af ON af.id = d.audio_file_id
    WHERE d.verdict IN ('skipped', 'undone') AND af.status IN ('flagged', 'transcribed')
) begun
GROUP BY audio_file_id;
