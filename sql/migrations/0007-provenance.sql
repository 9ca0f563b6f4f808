-- depends: 0006-controls-and-copies

-- What made each archive's manifest, transcripts and scores, and the policies' full texts.

CREATE TABLE provenance (
    archive_id BIGINT NOT NULL REFERENCES archives (id) ON DELETE CASCADE,
    kind TEXT NOT NULL CHECK (kind IN ('manifest', 'transcripts', 'classifications')),
    name TEXT NOT NULL,
    facts JSONB NOT NULL,
    PRIMARY KEY (archive_id, kind, name)
);

COMMENT ON TABLE provenance IS 'What made the rows of an archive: one row for its manifest, one for each set of transcripts and of scores';

COMMENT ON COLUMN provenance.name IS 'Value of transcripts.asr or classifications.policy; empty for a manifest';

COMMENT ON COLUMN provenance.facts IS 'Metadata of the Parquet file: model and revision, decode options, hashes of policies and prompt, package version, draw, seconds';

CREATE TABLE policies (
    sha256 TEXT PRIMARY KEY,
    text TEXT NOT NULL
);

COMMENT ON TABLE policies IS 'Full texts of the policies that made scores, by the hash that provenance.facts ->> ''policy_sha256'' names';
