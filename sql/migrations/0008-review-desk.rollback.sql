DROP FUNCTION return_to_review;

DROP VIEW review_outcomes;

DROP VIEW review_standing;

DROP TABLE review_access, second_reviews, review_decisions, review_claims, sign_in_failures, review_sessions, reviewers;

DROP FUNCTION refuse_change;
