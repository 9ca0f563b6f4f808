"""A record to review: clips as a load leaves them, made inside the server."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psycopg2
from argon2 import PasswordHasher

from earmark.desk.accounts import Reviewer, Role
from earmark.desk.connections import Connections

PASSWORD = "correct horse battery"
POLICIES = {
    "harassment": "# Harassment\n\n## Overview\n\nWhat is *harassing*.",
    "scams": "# Scams\n\n## Overview\n\nWhat is a scam.",
    "violent-threats": "# Violent threats\n\nWhat threatens.",
}

_FILL = """
INSERT INTO archives (id, name, date, status, asr, policy)
OVERRIDING SYSTEM VALUE VALUES (1, 'sound_01.tar', '2026-11-02', 'ok', 'whisper', '2026-11');

INSERT INTO audio_files (
    id, original_filename, opus_path, archive_source, duration_seconds, status, archive_id,
    ordinal, source_sha256, control, review_probability
)
SELECT n, format('posts/%%s.mp3', n),
    format('audio/date=2026-11-02/sound_01.tar/%%s.opus', lpad(n::text, 6, '0')), 'sound_01.tar',
    4.5, CASE WHEN n <= %(flagged)s THEN 'flagged' ELSE 'transcribed' END, 1, n,
    encode(sha256(n::text::bytea), 'hex'), n > %(flagged)s,
    CASE WHEN n <= %(flagged)s THEN 1 ELSE 0.01 END
FROM generate_series(1, %(flagged)s + %(controls)s) n;

INSERT INTO transcripts (audio_file_id, asr, transcript_text, language, confidence, segments)
SELECT id, 'whisper', 'First words. Then more.', 'en', 0.9,
    '[{"start": 0, "end": 2, "text": " First words."},
      {"start": 2, "end": 4, "text": " Then more."}]'
FROM audio_files;

-- The first clip has the highest score; every third is also flagged under another category.
INSERT INTO classifications (
    audio_file_id, policy, flagged, flag_score, flag_category, threshold, answer
)
SELECT n, '2026-11', TRUE, 1 - n / (2.0 * %(flagged)s), 'scams', 0.5, 'logits'
FROM generate_series(1, %(flagged)s) n
UNION ALL
SELECT n, '2026-11', TRUE, 0.5, 'harassment', 0.5, 'logits'
FROM generate_series(3, %(flagged)s, 3) n;

INSERT INTO provenance VALUES (1, 'classifications', '2026-11', %(facts)s);
"""


def fill(conninfo: str, flagged: int, controls: int = 0) -> None:
    """Put clips 1, 2, … into an empty record: first flagged ones, then controls."""
    with psycopg2.connect(conninfo) as connection, connection.cursor() as cursor:
        hashes = {category: f"{category}-sha256" for category in POLICIES}
        facts = json.dumps({"policy_sha256": json.dumps(hashes)})
        cursor.execute("SET synchronous_commit = off")
        cursor.execute(_FILL, {"flagged": flagged, "controls": controls, "facts": facts})
        for category, text in POLICIES.items():
            cursor.execute(
                "INSERT INTO policies VALUES (%s, %s) ON CONFLICT DO NOTHING",
                [hashes[category], text],
            )
    connection.close()


def join(conninfo: str, *names: str, role: Role = "reviewer") -> list[Reviewer]:
    """Make accounts, all with :data:`PASSWORD`; weakly hashed, as a test makes many."""
    with psycopg2.connect(conninfo) as connection, connection.cursor() as cursor:
        made = []
        for name in names:
            cursor.execute(
                "INSERT INTO reviewers (name, role, password_hash) VALUES (%s, %s, %s) "
                "RETURNING id, name, role, hide_text, muted, opted_out, break_minutes",
                [name, role, _HASHED],
            )
            made.append(Reviewer(*cursor.fetchall()[0]))
    connection.close()
    return made


_HASHED = PasswordHasher(time_cost=1, memory_cost=8, parallelism=1).hash(PASSWORD)


def ask(connections: Connections, sql: str, *values: object) -> Sequence[tuple[Any, ...]]:
    """Run a statement in a transaction of its own."""
    with connections.transaction() as connection, connection.cursor() as cursor:
        cursor.execute(sql, values)
        return cursor.fetchall() if cursor.description else []


def json_lines(path: Path) -> list[dict[str, Any]]:
    """The rows of an export as JSON Lines."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
