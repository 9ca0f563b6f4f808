DROP INDEX idx_audio_copies;

DROP INDEX idx_audio_duplicates;

DROP FUNCTION return_to_review;

DROP VIEW ra_waiting;

DROP VIEW review_outcomes;

DROP VIEW review_standing;

DROP TABLE review_access, review_waiting, second_reviews, review_decisions, review_claims, sign_in_failures, review_sessions, reviewers;

DROP FUNCTION refuse_change;
