-- depends: 0017-drafts

-- What was played of a clip before somebody decided about it.

ALTER TABLE review_drafts ADD COLUMN heard JSONB NOT NULL DEFAULT '[]';

COMMENT ON COLUMN review_drafts.heard IS 'What was played so far, as in review_decisions.heard';

ALTER TABLE review_decisions ADD COLUMN heard JSONB;

COMMENT ON COLUMN review_decisions.heard IS 'What was played before the decision, not muted, as the browser told it: sorted array of [from, to] in seconds of the clip, which do not touch; empty if nothing was; null where it was not recorded or there was no audio';
