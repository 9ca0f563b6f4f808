-- depends: 0013-screen-check

-- A sample over all that was transcribed, heard among the queue's top. Which archives a draw took
-- in is kept, not which clips: a load that commits late is in the next one.

CREATE TABLE review_draws (
    id BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    drawn_on DATE NOT NULL UNIQUE,
    drawn_at TIMESTAMPTZ NOT NULL DEFAULT now(),
    bounds DOUBLE PRECISION [] NOT NULL
);

COMMENT ON TABLE review_draws IS 'Daily samples for review over all clips that were transcribed, whether flagged or not';

COMMENT ON COLUMN review_draws.drawn_on IS 'Day of review.timezone';

COMMENT ON COLUMN review_draws.bounds IS 'Scores that part the strata, rising: stratum 1 is below the first, and one more at each. Stratum 0 has no score';

CREATE TABLE review_draw_archives (
    archive_id BIGINT PRIMARY KEY REFERENCES archives (id) ON DELETE CASCADE,
    draw_id BIGINT NOT NULL REFERENCES review_draws (id),
    policy TEXT NOT NULL
);

COMMENT ON TABLE review_draw_archives IS 'Of which archives a sample was drawn, each once';

COMMENT ON COLUMN review_draw_archives.policy IS 'Policy set whose highest score of a clip decided on its stratum';

CREATE TABLE review_strata (
    draw_id BIGINT NOT NULL REFERENCES review_draws (id),
    stratum SMALLINT NOT NULL,
    clips INTEGER NOT NULL,
    rate DOUBLE PRECISION NOT NULL,
    drawn INTEGER NOT NULL,
    PRIMARY KEY (draw_id, stratum)
);

COMMENT ON TABLE review_strata IS 'What a sample was drawn from';

COMMENT ON COLUMN review_strata.clips IS 'Contents that could be drawn, each counted where it was heard by the machine';

COMMENT ON COLUMN review_strata.rate IS 'Share of them that was expected to be reportable; it decided on "drawn" and enters no estimate';

CREATE TABLE review_sample (
    audio_file_id BIGINT PRIMARY KEY REFERENCES audio_files (id) ON DELETE CASCADE,
    draw_id BIGINT NOT NULL,
    stratum SMALLINT NOT NULL,
    place INTEGER NOT NULL,
    UNIQUE (draw_id, place),
    FOREIGN KEY (draw_id, stratum) REFERENCES review_strata (draw_id, stratum)
);

COMMENT ON TABLE review_sample IS 'Clips that were drawn';

COMMENT ON COLUMN review_sample.place IS 'In which order they are given out, from 1: random within a stratum, and each beginning of it has of all strata about the shares that the whole has';

ALTER TABLE review_claims
    DROP CONSTRAINT review_claims_chosen_by_check,
    ADD CONSTRAINT review_claims_chosen_by_check CHECK (chosen_by IN ('score', 'category', 'control', 'sample', 'second', 'adjudication'));

COMMENT ON COLUMN review_claims.chosen_by IS 'Why this item came up: score or category (flagged clips), control (ra_controls), sample (review_sample), second (drawn), adjudication';

CREATE VIEW review_sample_heard AS
SELECT s.audio_file_id, s.draw_id, s.stratum, s.place, h.clips,
    count(*) OVER of_stratum AS heard,
    count(*) OVER of_stratum::DOUBLE PRECISION / h.clips AS probability
FROM review_sample s
JOIN review_strata h ON h.draw_id = s.draw_id AND h.stratum = s.stratum
JOIN (
    SELECT given.draw_id, max(given.place) AS place
    FROM review_sample given
    JOIN review_standing d ON d.audio_file_id = given.audio_file_id
    WHERE d.round = 'first' AND d.chosen_by = 'sample'
    GROUP BY given.draw_id
) reached ON reached.draw_id = s.draw_id AND s.place <= reached.place
WHERE EXISTS (
    SELECT FROM review_standing d WHERE d.audio_file_id = s.audio_file_id AND d.round = 'first'
)
WINDOW of_stratum AS (PARTITION BY s.draw_id, s.stratum);

COMMENT ON VIEW review_sample_heard IS 'The part of each sample that people heard: all up to the last place that was given out as a sample item and decided about';

COMMENT ON COLUMN review_sample_heard.probability IS 'heard / clips: as the order within a stratum is random, what was heard is a random part of it';
