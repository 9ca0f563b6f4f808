-- depends: 0012-screen

-- A transaction of its own: 0012 locks the table for a moment, and this reads every row while
-- others read and write.

ALTER TABLE classifications VALIDATE CONSTRAINT classifications_status_check;
