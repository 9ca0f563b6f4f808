DROP TABLE review_links;

DROP TABLE review_devices;
