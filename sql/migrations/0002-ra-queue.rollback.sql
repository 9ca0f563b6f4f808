DROP VIEW ra_queue;
