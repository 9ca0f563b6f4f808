"""Writes sql/schema.sql, the schema that the migrations make: `make schema`."""

import re
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import groupby
from pathlib import Path

from earmark.record import database, embedded_server

SCHEMA = Path(__file__).with_name("schema.sql")

_HEADER = """\
-- The schema as it is now: what sql/migrations make of an empty database, without yoyo's own
-- tables. Made by `make schema` and never edited: a change is a new migration. Databases are set
-- up by `earmark migrate`; this file is for reading.

SET check_function_bodies = false; -- some name tables that are made further below
"""
_ENTRY = re.compile(r"^--\n-- Name: .*; Type: (.*); Schema: .*\n--\n", re.MULTILINE)
_END = "--\n-- PostgreSQL database dump complete\n"
# What goes without saying, as it is PostgreSQL's default.
_DEFAULTS = re.compile(
    r"^SET default_table\w+ = .*;\n|"
    r" \(\s+SEQUENCE NAME \S+\s+START WITH 1\s+INCREMENT BY 1\s+NO MINVALUE\s+NO MAXVALUE\s+"
    r"CACHE 1\s+\)",
    re.MULTILINE,
)
_NAME = re.compile(r"\bpublic\.(\w+)")


def dump(conninfo: str) -> str:
    """The schema of a database of the embedded server in pg_dump's words, without yoyo's tables."""
    command = [
        *(str(embedded_server.PROGRAMS / "pg_dump"), "--schema-only", "--no-owner"),
        # The key, which psql asks for, would be drawn anew each time.
        *("--exclude-table=*yoyo*", "--encoding=UTF8", "--restrict-key=schema"),
        f"--dbname={conninfo}",
    ]
    return subprocess.run(command, stdout=subprocess.PIPE, encoding="utf-8", check=True).stdout


def schema(conninfo: str) -> str:
    """The same for reading: each table with its comments, keys, indexes and triggers.

    pg_dump writes all tables, then all keys, and so on.  Here everything about an object stands
    together, after the objects that it needs, so that the text still makes the same database.
    """
    _, *parts = _ENTRY.split(dump(conninfo).partition(_END)[0])
    objects: dict[str, list[tuple[str, str]]] = {}
    for kind, text in zip(parts[::2], parts[1::2], strict=True):
        statement = _DEFAULTS.sub("", text).strip()
        about = _NAME.search(statement)  # an index or a trigger names its table first
        objects.setdefault(about[1] if about else "", []).append((kind, statement))
    laid_out = [_HEADER]

    def lay_out(name: str) -> None:
        statements = objects.pop(name, [])
        for kind, statement in statements:
            for needed in _NAME.findall(statement) if kind != "FUNCTION" else ():
                lay_out(needed)
        if statements:
            same_kind = groupby(statements, key=lambda each: each[0])
            paragraphs = ["\n".join(text for _, text in group) for _, group in same_kind]
            laid_out.append("\n\n".join(paragraphs) + "\n")

    for name in sorted(objects, key=lambda name: objects[name][0][0] == "FUNCTION"):
        lay_out(name)
    return "\n\n".join(laid_out)


@contextmanager
def migrated() -> Iterator[str]:
    """A database of its own, with what the migrations make; it goes afterwards."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o711)  # the server has a user of its own where root runs this
        conninfo = embedded_server.use(folder / "postgres")
        try:
            database.migrate(conninfo)
            yield conninfo
        finally:
            embedded_server.stop(folder / "postgres")


def main() -> None:
    """Migrate an empty database and write down its schema."""
    with migrated() as conninfo:
        SCHEMA.write_text(schema(conninfo), encoding="utf-8")


if __name__ == "__main__":
    main()
