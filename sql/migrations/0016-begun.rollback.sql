DROP TABLE review_begun;
