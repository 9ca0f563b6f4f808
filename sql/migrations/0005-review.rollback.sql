DROP FUNCTION mark_reviewed;
