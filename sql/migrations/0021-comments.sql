-- depends: 0018-heard

-- Every column says what it holds, and what null means where it may be null.

COMMENT ON COLUMN archives.id IS 'Key';
COMMENT ON COLUMN archives.reason IS 'Why the status is not ok; null if it is';
COMMENT ON COLUMN archives.type IS 'What the archive is by its content, whatever its name says; null if nobody could look';
COMMENT ON COLUMN archives.bytes IS 'Size of the archive as it came; null if it never came';
COMMENT ON COLUMN archives.ok IS 'Members that are audio and could be decoded';
COMMENT ON COLUMN archives.failed IS 'Members that are audio and could not be decoded, or could not be unpacked';
COMMENT ON COLUMN archives.skipped IS 'Members that are no clips: no audio, audio of a format that is not taken, or erased; they have no row in audio_files';
COMMENT ON COLUMN archives.asr IS 'Speech recognition set of the latest load, which decides status and queue; null if nothing was transcribed';
COMMENT ON COLUMN archives.policy IS 'Policy set of the latest load, which decides status and queue; null if nothing was classified';
COMMENT ON COLUMN archives.unpack_seconds IS 'Time that unpacking took; null if it was not recorded';
COMMENT ON COLUMN archives.encode_seconds IS 'Time that encoding took; null if it was not recorded';
COMMENT ON COLUMN archives.transcribe_seconds IS 'Time that transcribing took; null if it was not recorded';
COMMENT ON COLUMN archives.classify_seconds IS 'Time that classifying took; null if it was not recorded';
COMMENT ON COLUMN archives.version IS 'Version of the package that wrote the manifest; null if it was not recorded';

COMMENT ON COLUMN audio_files.id IS 'Key; not the number in the archive, which is ordinal';
COMMENT ON COLUMN audio_files.archive_source IS 'Whole file name of the archive; null if it came without one';
COMMENT ON COLUMN audio_files.duration_seconds IS 'Length of its audio; null if it was not decoded';
COMMENT ON COLUMN audio_files.file_size_bytes IS 'Size of the Opus file; null without one';
COMMENT ON COLUMN audio_files.status IS 'pending: kept, not transcribed (not selected); transcribed: and not flagged by any category, though some may be undecided or unasked (classifications.status); flagged; reviewed: by a person, no load changes it; failed: see error. A duplicate has the status of its original';
COMMENT ON COLUMN audio_files.archive_id IS 'The archive, archives.id; null for rows not loaded from an archive, and for reviewed clips that a later load of the archive no longer holds';
COMMENT ON COLUMN audio_files.ordinal IS 'Position in the archive, from 0; null as archive_id';
COMMENT ON COLUMN audio_files.source_sha256 IS 'Hash of the member''s bytes as they came; null if they could not be had';
COMMENT ON COLUMN audio_files.source_bytes IS 'Size of the member; null if it came without an archive';
COMMENT ON COLUMN audio_files.source_format IS 'What the member is by its content; null if nobody looked';
COMMENT ON COLUMN audio_files.sample_rate IS 'Of the source; null if it was not decoded';
COMMENT ON COLUMN audio_files.channels IS 'Of the source; null if it was not decoded';
COMMENT ON COLUMN audio_files.error IS 'Why decoding or transcribing failed; null if neither did';
COMMENT ON COLUMN audio_files.duplicate_of IS 'Ordinal of the first member with the same content in this archive, which has the transcript; null if this one is the first';
COMMENT ON COLUMN audio_files.queue_score IS 'Highest score among the categories that flagged it under the archive''s policy set, kept by triggers; null if none did';
COMMENT ON COLUMN audio_files.queue_category IS 'The category of that score, kept by triggers; null if none did';
COMMENT ON COLUMN audio_files.queue_categories IS 'All categories that flagged it under that policy set, highest score first, kept by triggers; null if none did';
COMMENT ON COLUMN audio_files.copied_from IS 'opus_path of the clip with the same content in another archive that was heard instead, so that this one waits for no review of its own; null if this one was heard';
COMMENT ON COLUMN audio_files.source_peak_dbfs IS 'Largest sample of the source, in dB relative to full scale; null as source_rms_dbfs';
COMMENT ON COLUMN audio_files.opus_rms_dbfs IS 'As source_rms_dbfs, of what became the Opus file; null as there';
COMMENT ON COLUMN audio_files.opus_peak_dbfs IS 'As source_peak_dbfs, of what became the Opus file; null as there';

COMMENT ON COLUMN classifications.id IS 'Number in the order of loading; no index has it';
COMMENT ON COLUMN classifications.audio_file_id IS 'The clip, audio_files.id';
COMMENT ON COLUMN classifications.flag_category IS 'Category of the policy set; null if it came without one';
COMMENT ON COLUMN classifications.threshold IS 'Score from which a clip is flagged; null if it was not recorded';
COMMENT ON COLUMN classifications.answer IS 'logits: score from the two answer tokens; json: score as the model wrote it; null if it was not recorded';
COMMENT ON COLUMN classifications.raw_response IS 'What the model wrote; null unless answer is json';
COMMENT ON COLUMN classifications.error IS 'Why there is no score; null if there is one, and if unasked';

COMMENT ON COLUMN policies.sha256 IS 'Hash of the text, in hexadecimal';
COMMENT ON COLUMN policies.text IS 'The policy as it was';

COMMENT ON COLUMN provenance.archive_id IS 'The archive, archives.id';
COMMENT ON COLUMN provenance.kind IS 'manifest, transcripts or classifications';

COMMENT ON COLUMN ra_controls.id IS 'As audio_files.id';
COMMENT ON COLUMN ra_controls.original_filename IS 'As audio_files.original_filename';
COMMENT ON COLUMN ra_controls.opus_path IS 'As audio_files.opus_path';
COMMENT ON COLUMN ra_controls.transcript_text IS 'As transcripts.transcript_text';
COMMENT ON COLUMN ra_controls.review_probability IS 'As audio_files.review_probability';
COMMENT ON COLUMN ra_controls.created_at IS 'As audio_files.created_at';
COMMENT ON COLUMN ra_controls.archive IS 'As audio_files.archive_source';
COMMENT ON COLUMN ra_controls.duration_seconds IS 'As audio_files.duration_seconds';
COMMENT ON COLUMN ra_controls.language IS 'As transcripts.language';
COMMENT ON COLUMN ra_controls.confidence IS 'As transcripts.confidence';
COMMENT ON COLUMN ra_controls.languages IS 'All languages, the largest share first; null as transcripts.languages';
COMMENT ON COLUMN ra_controls.compression_ratio IS 'As transcripts.compression_ratio';
COMMENT ON COLUMN ra_controls.no_speech_probability IS 'As transcripts.no_speech_probability';
COMMENT ON COLUMN ra_controls.doubt IS 'As transcripts.doubt';

COMMENT ON COLUMN ra_queue.id IS 'As audio_files.id';
COMMENT ON COLUMN ra_queue.original_filename IS 'As audio_files.original_filename';
COMMENT ON COLUMN ra_queue.opus_path IS 'As audio_files.opus_path';
COMMENT ON COLUMN ra_queue.transcript_text IS 'As transcripts.transcript_text';
COMMENT ON COLUMN ra_queue.flag_score IS 'As audio_files.queue_score';
COMMENT ON COLUMN ra_queue.flag_category IS 'As audio_files.queue_category';
COMMENT ON COLUMN ra_queue.created_at IS 'As audio_files.created_at';
COMMENT ON COLUMN ra_queue.archive IS 'As audio_files.archive_source';
COMMENT ON COLUMN ra_queue.duration_seconds IS 'As audio_files.duration_seconds';
COMMENT ON COLUMN ra_queue.language IS 'As transcripts.language';
COMMENT ON COLUMN ra_queue.confidence IS 'As transcripts.confidence';
COMMENT ON COLUMN ra_queue.flag_categories IS 'As audio_files.queue_categories';
COMMENT ON COLUMN ra_queue.languages IS 'All languages, the largest share first; null as transcripts.languages';
COMMENT ON COLUMN ra_queue.compression_ratio IS 'As transcripts.compression_ratio';
COMMENT ON COLUMN ra_queue.no_speech_probability IS 'As transcripts.no_speech_probability';
COMMENT ON COLUMN ra_queue.doubt IS 'As transcripts.doubt';

COMMENT ON COLUMN ra_waiting.id IS 'As audio_files.id';
COMMENT ON COLUMN ra_waiting.queue_score IS 'As audio_files.queue_score';
COMMENT ON COLUMN ra_waiting.queue_categories IS 'As audio_files.queue_categories';

COMMENT ON COLUMN review_access.id IS 'Key';
COMMENT ON COLUMN review_access.reviewer_id IS 'Who, reviewers.id';
COMMENT ON COLUMN review_access.audio_file_id IS 'The clip, audio_files.id, which may be gone; null for an export';
COMMENT ON COLUMN review_access.what IS 'page, audio or export';
COMMENT ON COLUMN review_access.detail IS 'Of audio, the range of bytes asked for, or that it was playing; of an export, its kind and days; null for a page';
COMMENT ON COLUMN review_access.at IS 'When';

COMMENT ON COLUMN review_begun.audio_file_id IS 'The clip, audio_files.id';
COMMENT ON COLUMN review_begun.since IS 'When it was given out or taken back';

COMMENT ON COLUMN review_claims.audio_file_id IS 'The item, audio_files.id';
COMMENT ON COLUMN review_claims.reviewer_id IS 'Who has it open, reviewers.id';
COMMENT ON COLUMN review_claims.round IS 'first, second or adjudication';
COMMENT ON COLUMN review_claims.category IS 'The category that the person asked for; null if they asked for none';
COMMENT ON COLUMN review_claims.claimed_at IS 'When the item was opened';
COMMENT ON COLUMN review_claims.expires_at IS 'From when on anybody may take it';

COMMENT ON COLUMN review_decisions.id IS 'Key, in the order of the decisions';
COMMENT ON COLUMN review_decisions.audio_file_id IS 'The clip, audio_files.id';
COMMENT ON COLUMN review_decisions.reviewer_id IS 'Who decided, reviewers.id';
COMMENT ON COLUMN review_decisions.round IS 'first, second or adjudication';
COMMENT ON COLUMN review_decisions.chosen_by IS 'As review_claims.chosen_by';
COMMENT ON COLUMN review_decisions.transcript_wrong IS 'The person says that the transcript is wrong';
COMMENT ON COLUMN review_decisions.not_speech IS 'The person says that nobody speaks';
COMMENT ON COLUMN review_decisions.wrong_language IS 'The person says that the language is another one';
COMMENT ON COLUMN review_decisions.reason IS 'Why it was skipped; null if it was not';
COMMENT ON COLUMN review_decisions.note IS 'What the person wrote; null if nothing';
COMMENT ON COLUMN review_decisions.flag_categories IS 'The categories of that set that flagged it, highest score first; null for a control';
COMMENT ON COLUMN review_decisions.decided_at IS 'When it was decided';

COMMENT ON COLUMN review_drafts.audio_file_id IS 'The clip, audio_files.id';
COMMENT ON COLUMN review_drafts.reviewer_id IS 'Whose draft it is, reviewers.id';
COMMENT ON COLUMN review_drafts.note IS 'As review_decisions.note, empty if nothing';
COMMENT ON COLUMN review_drafts.transcript_wrong IS 'As review_decisions.transcript_wrong';
COMMENT ON COLUMN review_drafts.not_speech IS 'As review_decisions.not_speech';
COMMENT ON COLUMN review_drafts.wrong_language IS 'As review_decisions.wrong_language';
COMMENT ON COLUMN review_drafts.put_back_at IS 'When the person put it back, so that it is not the next that they are given; null if they did not';

COMMENT ON COLUMN review_draw_archives.archive_id IS 'The archive, archives.id';
COMMENT ON COLUMN review_draw_archives.draw_id IS 'The sample, review_draws.id';

COMMENT ON COLUMN review_draws.id IS 'Key';
COMMENT ON COLUMN review_draws.drawn_at IS 'When it was drawn';

COMMENT ON COLUMN review_outcomes.audio_file_id IS 'The clip, audio_files.id';
COMMENT ON COLUMN review_outcomes.decided_at IS 'When the first person decided';
COMMENT ON COLUMN review_outcomes.first_reviewer_id IS 'Who decided first, reviewers.id';
COMMENT ON COLUMN review_outcomes.first_verdict IS 'As review_decisions.verdict, of the first person';
COMMENT ON COLUMN review_outcomes.first_categories IS 'As review_decisions.categories, of the first person';
COMMENT ON COLUMN review_outcomes.second_reviewer_id IS 'Who decided second, reviewers.id; null if nobody has';
COMMENT ON COLUMN review_outcomes.second_verdict IS 'That person''s verdict; null if nobody has decided second';
COMMENT ON COLUMN review_outcomes.second_categories IS 'That person''s categories; null if nobody has decided second';
COMMENT ON COLUMN review_outcomes.adjudicator_id IS 'The lead who settled it, reviewers.id; null if none has';
COMMENT ON COLUMN review_outcomes.adjudicated_verdict IS 'The lead''s verdict; null if none has settled it';
COMMENT ON COLUMN review_outcomes.adjudicated_categories IS 'The lead''s categories; null if none has settled it';
COMMENT ON COLUMN review_outcomes.second_review_probability IS 'As second_reviews.probability; null if it was not drawn';
COMMENT ON COLUMN review_outcomes.state IS 'settled, waits for second review or disputed';
COMMENT ON COLUMN review_outcomes.verdict IS 'The adjudicator''s verdict, or else the first; null until it is settled';
COMMENT ON COLUMN review_outcomes.categories IS 'The adjudicator''s categories, or else the first; null until it is settled';

COMMENT ON COLUMN review_sample.audio_file_id IS 'The clip, audio_files.id';
COMMENT ON COLUMN review_sample.draw_id IS 'The sample, review_draws.id';
COMMENT ON COLUMN review_sample.stratum IS 'Its stratum, by the bounds of review_draws';

COMMENT ON COLUMN review_sample_heard.audio_file_id IS 'As review_sample.audio_file_id';
COMMENT ON COLUMN review_sample_heard.draw_id IS 'As review_sample.draw_id';
COMMENT ON COLUMN review_sample_heard.stratum IS 'As review_sample.stratum';
COMMENT ON COLUMN review_sample_heard.place IS 'As review_sample.place';
COMMENT ON COLUMN review_sample_heard.clips IS 'As review_strata.clips';
COMMENT ON COLUMN review_sample_heard.heard IS 'How many clips of the stratum people heard';

COMMENT ON COLUMN review_sessions.token_sha256 IS 'Hash of the token';
COMMENT ON COLUMN review_sessions.reviewer_id IS 'Who is signed in, reviewers.id';
COMMENT ON COLUMN review_sessions.created_at IS 'When they signed in';
COMMENT ON COLUMN review_sessions.seen_at IS 'When they were last seen';

COMMENT ON COLUMN review_standing.id IS 'As review_decisions.id';
COMMENT ON COLUMN review_standing.audio_file_id IS 'As review_decisions.audio_file_id';
COMMENT ON COLUMN review_standing.reviewer_id IS 'As review_decisions.reviewer_id';
COMMENT ON COLUMN review_standing.round IS 'As review_decisions.round';
COMMENT ON COLUMN review_standing.chosen_by IS 'As review_decisions.chosen_by';
COMMENT ON COLUMN review_standing.verdict IS 'As review_decisions.verdict';
COMMENT ON COLUMN review_standing.categories IS 'As review_decisions.categories';
COMMENT ON COLUMN review_standing.transcript_wrong IS 'As review_decisions.transcript_wrong';
COMMENT ON COLUMN review_standing.not_speech IS 'As review_decisions.not_speech';
COMMENT ON COLUMN review_standing.wrong_language IS 'As review_decisions.wrong_language';
COMMENT ON COLUMN review_standing.reason IS 'As review_decisions.reason';
COMMENT ON COLUMN review_standing.note IS 'As review_decisions.note';
COMMENT ON COLUMN review_standing.asr IS 'As review_decisions.asr';
COMMENT ON COLUMN review_standing.policy IS 'As review_decisions.policy';
COMMENT ON COLUMN review_standing.flag_score IS 'As review_decisions.flag_score';
COMMENT ON COLUMN review_standing.flag_categories IS 'As review_decisions.flag_categories';
COMMENT ON COLUMN review_standing.claimed_at IS 'As review_decisions.claimed_at';
COMMENT ON COLUMN review_standing.decided_at IS 'As review_decisions.decided_at';

COMMENT ON COLUMN review_strata.draw_id IS 'The sample, review_draws.id';
COMMENT ON COLUMN review_strata.stratum IS 'Its number, by the bounds of review_draws';
COMMENT ON COLUMN review_strata.drawn IS 'How many of them were drawn';

COMMENT ON COLUMN review_waiting.audio_file_id IS 'The clip, audio_files.id';
COMMENT ON COLUMN review_waiting.round IS 'Whom it waits for: second or adjudication';
COMMENT ON COLUMN review_waiting.since IS 'Since when';

COMMENT ON COLUMN reviewers.id IS 'Key';
COMMENT ON COLUMN reviewers.name IS 'Of the account';
COMMENT ON COLUMN reviewers.active IS 'May sign in';
COMMENT ON COLUMN reviewers.created_at IS 'When the account was made';
COMMENT ON COLUMN reviewers.muted IS 'Audio begins muted';

COMMENT ON COLUMN second_reviews.audio_file_id IS 'The clip, audio_files.id';
COMMENT ON COLUMN second_reviews.drawn_at IS 'When it was drawn';

COMMENT ON COLUMN sign_in_failures.name IS 'The name that was given';
COMMENT ON COLUMN sign_in_failures.address IS 'Where it was given, an IP address';
COMMENT ON COLUMN sign_in_failures.failed_at IS 'When';

COMMENT ON COLUMN transcripts.id IS 'Key';
COMMENT ON COLUMN transcripts.audio_file_id IS 'The clip, audio_files.id';
COMMENT ON COLUMN transcripts.confidence IS 'exp of the token-weighted mean log-probability; null without text';
COMMENT ON COLUMN transcripts.language_probability IS 'How sure the model is of its language, 1 if that was given; null without speech';
COMMENT ON COLUMN transcripts.no_speech_probability IS 'Whisper''s own doubt that there is speech, mean over the segments by their length; null without speech';
COMMENT ON COLUMN transcripts.speech_seconds IS 'How much speech there is; null if failed';
COMMENT ON COLUMN transcripts.segments IS 'Array of {start, end, text, language, avg_logprob, doubt}, times in seconds; Earmark 0.2 wrote neither language nor doubt; null if failed';
COMMENT ON COLUMN transcripts.status IS 'ok or failed';
COMMENT ON COLUMN transcripts.error IS 'Why it failed; null if it did not';
COMMENT ON COLUMN transcripts.seconds IS 'Processing time; null where nothing was processed';
