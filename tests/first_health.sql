-- Daily health check (run before noon)
SELECT 
    COUNT(*) FILTER (WHERE c.flagged = true) as flagged_count,
    COUNT(*) as total_processed
FROM audio_files af
JOIN classifications c ON c.audio_file_id = af.id
WHERE af.created_at > NOW() - INTERVAL '24 hours';
