"""Who may do what in the database.

Knows the groups of roles and what each needs; that people and programs get in at all is for
the server's administrator.  Whoever migrates owns the schema, and needs no group.
"""

from psycopg2 import sql
from psycopg2.extensions import connection as Connection

_TABLES = "archives, audio_files, transcripts, classifications, provenance, policies"

#: What a group of roles may do, beside connecting and seeing which migrations were applied.
GRANTS = {
    # The pipeline: its loads stage rows in temporary tables, its backups read all there is.
    "earmark_writer": (
        f"GRANT INSERT, UPDATE, DELETE ON {_TABLES} TO {{role}}",
        "GRANT SELECT ON ALL TABLES IN SCHEMA public TO {role}",
        "GRANT SELECT ON ALL SEQUENCES IN SCHEMA public TO {role}",
        "GRANT TEMPORARY ON DATABASE {database} TO {role}",
    ),
    # The review desk's process, which the network reaches: what its pages show, and what people
    # decide.  It makes no account, and changes nothing that it once wrote down.
    "earmark_reviewer": (
        f"GRANT SELECT ON {_TABLES}, ra_queue, ra_waiting, ra_controls TO {{role}}",
        "GRANT SELECT ON review_standing, review_outcomes, review_sample_heard TO {role}",
        "GRANT SELECT ON reviewers TO {role}",
        "GRANT UPDATE (hide_text, muted, opted_out, break_minutes, password_hash) "
        "ON reviewers TO {role}",
        "GRANT SELECT, INSERT ON review_decisions, second_reviews, review_access, "
        "review_draws, review_draw_archives, review_strata, review_sample TO {role}",
        "GRANT SELECT, INSERT, UPDATE, DELETE ON review_claims, review_sessions TO {role}",
        "GRANT SELECT, INSERT, UPDATE, DELETE ON review_drafts, review_devices TO {role}",
        "GRANT SELECT, INSERT, DELETE ON review_links TO {role}",
        "GRANT SELECT, INSERT, DELETE ON sign_in_failures, review_waiting, review_begun TO {role}",
        "GRANT EXECUTE ON FUNCTION mark_reviewed, return_to_review TO {role}",
    ),
    # Who asks questions.
    "earmark_analyst": (
        f"GRANT SELECT ON {_TABLES}, ra_queue, ra_waiting, ra_controls TO {{role}}",
        "GRANT SELECT ON review_decisions, second_reviews, review_waiting, review_draws, "
        "review_draw_archives, review_strata, review_sample TO {role}",
        "GRANT SELECT ON review_standing, review_outcomes, review_sample_heard TO {role}",
        "GRANT SELECT (id, name, role) ON reviewers TO {role}",
    ),
}

_FOR_ALL = (
    "GRANT CONNECT ON DATABASE {database} TO {role}",
    "REVOKE ALL ON ALL TABLES IN SCHEMA public FROM {role}",
    "REVOKE ALL ON ALL SEQUENCES IN SCHEMA public FROM {role}",
    "REVOKE ALL ON ALL FUNCTIONS IN SCHEMA public FROM {role}",
    "GRANT USAGE ON SCHEMA public TO {role}",
    "GRANT SELECT ON _yoyo_migration TO {role}",
)
_FOR_NOBODY = (
    "REVOKE CONNECT, TEMPORARY ON DATABASE {database} FROM PUBLIC",
    "REVOKE CREATE ON SCHEMA public FROM PUBLIC",
)


def create(connection: Connection) -> list[str]:
    """Make the groups that are missing; a server has them once, for all its databases.

    Returns:
        Those that were made.

    Raises:
        psycopg2.Error: the role may not make roles.
    """
    missing = [group for group in GRANTS if group not in _existing(connection)]
    with connection.cursor() as cursor:
        for group in missing:
            cursor.execute(sql.SQL("CREATE ROLE {} NOLOGIN").format(sql.Identifier(group)))
    return missing


def grant(connection: Connection) -> None:
    """Give each group that exists what it needs of the newest schema, and take all else back.

    Without any group nobody is given or denied anything; the schema's owner needs nothing.

    Raises:
        psycopg2.Error: the role does not own the schema.
    """
    groups = _existing(connection)
    database = sql.Identifier(connection.info.dbname)
    with connection.cursor() as cursor:
        # Their migrations say so, but a restored backup says nothing of rights.
        cursor.execute("REVOKE ALL ON FUNCTION mark_reviewed, return_to_review FROM PUBLIC")
        if not groups:
            return
        for statement in _FOR_NOBODY:
            cursor.execute(sql.SQL(statement).format(database=database))
        for group in groups:
            for statement in (*_FOR_ALL, *GRANTS[group]):
                role = sql.Identifier(group)
                cursor.execute(sql.SQL(statement).format(role=role, database=database))


def _existing(connection: Connection) -> list[str]:
    with connection.cursor() as cursor:
        cursor.execute("SELECT rolname FROM pg_roles WHERE rolname = ANY (%s)", [list(GRANTS)])
        found = {name for (name,) in cursor.fetchall()}
    return [group for group in GRANTS if group in found]
