"""The ``earmark`` command: what Snakemake has no word for."""

import argparse
import dataclasses
import datetime
import getpass
import json
import logging
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn
from zoneinfo import ZoneInfo

from rich.filesize import decimal

from earmark import REPOSITORY, configuration, logs, version
from earmark.clock import age
from earmark.desk import accounts
from earmark.driver import quarantine, redo, retention
from earmark.driver.cycle import cycle
from earmark.driver.retention import delete_at_source, safe_archives
from earmark.errors import EarmarkError, refused_by_system
from earmark.ingest import catalogue
from earmark.ingest.again import ask, requests
from earmark.ingest.source import source_of
from earmark.models import inventory
from earmark.policy.policies import load_policies
from earmark.policy.screen import screening_policy
from earmark.progress import track
from earmark.record import analysis, backup, database, erasure
from earmark.record.review_queue import controls, health, review_queue
from earmark.settings import Settings
from earmark.visible import visible
from earmark.volume import Volume
from earmark.watch import doctor, metrics
from earmark.watch.display import show, show_status
from earmark.watch.status import state_of_each, status

#: Exit status after an error that a person can put right; argparse has the same for usage.
ERROR = 2
#: Exit status of `discover` when the source didn't answer and what was known is shown.
UNANSWERED = 1
#: Exit status of `report` when noon will be missed, or when nobody can tell.
MISSED = 1
#: Exit status of `doctor` when something doesn't fit together.
NOT_FITTING = 1
#: Exit status of `models verify` when something is missing or damaged.
DAMAGED = 1

logger = logging.getLogger(__name__)

Command = Callable[[Settings, argparse.Namespace], int | None]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        arguments: The command line without the program's name; None takes the process's own.

    Returns:
        0; 2 after an error that was explained on standard error; 1 from ``discover`` when the
        source didn't answer, from ``models verify`` when a model isn't whole and from ``report``
        when noon will be missed; 3 and 4 from
        ``cycle``.
    """
    parsed = _parser().parse_args(arguments)
    command: Command = parsed.command
    logs.configure_command("earmark")
    try:
        code = command(configuration.read(parsed.configfile), parsed)
        sys.stdout.flush()
    except EarmarkError as error:
        print("earmark:", visible(str(error), keep="\n"), file=sys.stderr)
        return ERROR
    except BrokenPipeError:  # the reader, `head` for example, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        print(f"earmark: {refused_by_system(error)}", file=sys.stderr)
        return ERROR
    except KeyboardInterrupt:
        return 130
    return code or 0


class _TellVersion(argparse.Action):
    """``--version``; argparse's own action would ask git for it at every command."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> NoReturn:
        print(f"earmark {version.current()}")
        parser.exit()


def _parser() -> argparse.ArgumentParser:
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument(
        "--configfile",
        type=Path,
        default=Path(os.environ.get("EARMARK_CONFIG", configuration.DEFAULT_FILE)),
        metavar="FILE",
        help="the same file that snakemake is given (default: EARMARK_CONFIG from the "
        "environment, else config/config.yaml)",
    )
    as_json = argparse.ArgumentParser(add_help=False)
    as_json.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser = argparse.ArgumentParser(
        prog="earmark",
        description="What Snakemake has no word for. The pipeline itself is run by "
        "`snakemake --profile profiles/local --configfile FILE`.",
    )
    parser.add_argument("--version", action=_TellVersion, nargs=0, help="tell the version")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)

    def add(
        name: str,
        command: Command,
        summary: str,
        *parents: argparse.ArgumentParser,
        to: Any = commands,
    ) -> argparse.ArgumentParser:
        added: argparse.ArgumentParser = to.add_parser(
            name, help=summary, description=summary, parents=[common, *parents]
        )
        added.set_defaults(command=command)
        return added

    add(
        "discover", _discover,
        "List the source and write the catalogue of archives. Exit status 1: the source did not "
        "answer, and what is known of it is shown.", as_json,
    )  # fmt: skip
    run = add(
        "cycle", _cycle,
        "Run the cluster's workflow on archives as they appear, until cycle.max_hours are over "
        "or nothing is left; for cron or a timer. Exit status 0: worked; 2: could not run; 3: "
        "nothing to do, or a driver is at work already; 4: some archives failed; 130: interrupted. "
        "SIGTERM lets running jobs end, SIGINT cancels them.",
    )  # fmt: skip
    run.add_argument(
        "--profile", type=Path, default=REPOSITORY / "profiles/slurm", metavar="FOLDER",
        help="the Snakemake profile to run with (default: profiles/slurm)",
    )  # fmt: skip
    run.add_argument(
        "--directory", type=Path, default=REPOSITORY, metavar="FOLDER",
        help="where Snakemake keeps .snakemake (default: the checkout)",
    )  # fmt: skip
    check = add(
        "doctor", _doctor, "Check whether files and database agree about the archives that are "
        "done, and say what mends the rest. Exit status 1 if anything doesn't fit.", as_json,
    )  # fmt: skip
    check.add_argument(
        "--date", type=_day, metavar="YYYY-MM-DD", help="of the archives (default: all days)"
    )
    anew = add(
        "redo", _redo, "Have the next run do archives again from a stage on. It can be asked for "
        "at any time, also while a driver works.", as_json,
    )  # fmt: skip
    anew.add_argument("archives", nargs="*", metavar="ARCHIVE", help="such as sound_01.tar.gz")
    anew.add_argument(
        "--date", type=_day, metavar="YYYY-MM-DD", help="of the archives; without names, all of it"
    )
    anew.add_argument("--all", action="store_true", help="all archives of all days")
    anew.add_argument(
        "--stage", choices=redo.VERBS, default="load", help="the first one to do (load)"
    )
    anew.add_argument("--dry-run", action="store_true", help="only show which archives are meant")
    retry = add(
        "retry", _retry, "Release archives from quarantine; the next run takes them. Without "
        "arguments, list what is in it.", as_json,
    )  # fmt: skip
    retry.add_argument("archives", nargs="*", metavar="ARCHIVE", help="such as sound_01.tar.gz")
    retry.add_argument("--all", action="store_true", help="all that are in quarantine")
    look = add(
        "status", _status, "Show what is going on: archives, stages at work, rates, room, and "
        "whether enough will wait for review at noon.", as_json,
    )  # fmt: skip
    look.add_argument(
        "--prometheus", type=Path, metavar="FILE",
        help="write metrics to a .prom file for node_exporter instead of printing",
    )  # fmt: skip
    told = add(
        "report", _report,
        "Write today's report: reports/DATE/index.html below volume.root, with the queue as CSV "
        "and Parquet beside it. Exit status 1: the target of noon will be missed, or the database "
        "does not answer.",
    )  # fmt: skip
    told.add_argument(
        "--alert", action="store_true",
        help="run review.alert, which tells somebody, if noon will be missed and the hour is one "
        "of review.alert_hours",
    )  # fmt: skip
    clean = add(
        "clean", _clean,
        "Remove leftovers of abandoned archives, and what is past the ages of retention.*: audio, "
        "transcripts and scores (in the database too), reports, logs.", as_json,
    )  # fmt: skip
    clean.add_argument("--dry-run", action="store_true", help="show what would be removed")
    gone = add(
        "erase", _erase,
        "Erase a clip for good, and every other upload of the same content: audio, transcripts, "
        "scores and its place in reports. Without --yes, only show what would go.", as_json,
    )  # fmt: skip
    gone.add_argument("archive", nargs="?", metavar="ARCHIVE", help="whole name of its archive")
    gone.add_argument(
        "ordinal", nargs="?", type=int, metavar="ORDINAL", help="its position there, from 0"
    )
    gone.add_argument("--date", metavar="YYYY-MM-DD", help="of the archive, if there are several")
    gone.add_argument("--id", type=_positive, help="the clip's id in audio_files, instead")
    gone.add_argument("--yes", action="store_true", help="do it")
    group = commands.add_parser("models", help="Fetch or verify the configuration's models.")
    actions = group.add_subparsers(title="commands", metavar="COMMAND", required=True)
    add(
        "fetch", _models_fetch,
        "Bring the configuration's models from the Hugging Face hub into HF_HOME, as far as they "
        "are not there, and check them; jobs then never ask the hub. Gated models want their "
        "licence accepted on their page and HF_TOKEN in the environment.", as_json, to=actions,
    )  # fmt: skip
    verify = add(
        "verify", _models_verify,
        "Check every file of the configuration's models against the hub's checksums, without "
        "asking the hub; of a model that is a folder, only that it is "
        "there. Exit status 1: something is missing or damaged.", as_json, to=actions,
    )  # fmt: skip
    verify.add_argument("--quick", action="store_true", help="compare sizes only, at once")
    add(
        "screening-policy", _screening_policy,
        "Show the policy that classify.screen would ask, made of the policies' labels.",
    )  # fmt: skip
    up = add("migrate", _migrate, "Bring the database's schema, and what roles may do, up to date.")
    up.add_argument(
        "--roles", action="store_true",
        help="make the groups of roles that are missing; needs CREATEROLE (docs/database.md)",
    )  # fmt: skip
    queue = add("queue", _queue, "Show what waits for review, the highest score first.", as_json)
    queue.add_argument("--limit", type=_positive, default=20, metavar="N", help="at most N items")
    which = queue.add_mutually_exclusive_group()
    which.add_argument("--category", help="only items flagged under this policy category")
    which.add_argument(
        "--controls", action="store_true",
        help="instead, clips that no category flagged, drawn by queue.control_fraction",
    )  # fmt: skip
    add(
        "review", _review,
        "Serve the review desk, where people listen and decide, until it is told to end "
        "(docs/review.md).",
    )  # fmt: skip
    group = commands.add_parser("reviewer", help="Make and change accounts of the review desk.")
    actions = group.add_subparsers(title="commands", metavar="COMMAND", required=True)
    joins = add(
        "add", _reviewer_add,
        "Make an account. The password is asked for, or read as a line of standard input.",
        to=actions,
    )  # fmt: skip
    joins.add_argument(
        "--lead", action="store_true", help="may settle disputes and see what all do, too"
    )
    renewed = add(
        "password", _reviewer_password, "Give an account another password, and sign it out. The "
        "password is asked for, or read as a line of standard input.", to=actions,
    )  # fmt: skip
    moved = add(
        "role",
        _reviewer_role,
        "Make somebody a lead, or a reviewer, and sign them out.",
        to=actions,
    )
    off = add("disable", _reviewer_disable, "Let an account in no longer.", to=actions)
    on = add("enable", _reviewer_enable, "Let an account in again.", to=actions)
    for action in (joins, renewed, moved, off, on):
        action.add_argument("name", metavar="NAME", help="such as ada")
    moved.add_argument("role", choices=("reviewer", "lead"), help="what they are from now on")
    add("list", _reviewer_list, "List the accounts.", as_json, to=actions)
    saved = add(
        "backup", _backup,
        "Dump the database into a new folder below database.backups, check it, and remove all but "
        "the newest database.keep_backups.", as_json,
    )  # fmt: skip
    saved.add_argument("--list", action="store_true", help="only list what there is")
    again = add("restore", _restore, "Bring a backup into an empty database, the configured one.")
    again.add_argument("backup", type=Path, metavar="FOLDER", help="one that `backup` made")
    add(
        "health",
        _health,
        "Count what was flagged, failed, left out in the last 24 hours.",
        as_json,
    )
    stop = add("database", _database, "Print the database's connection URI, without a password.")
    stop.add_argument("--stop", action="store_true", help="stop the embedded server")
    analyse = add(
        "analyse", _analyse, "Run a DuckDB query of sql/analysis over the Parquet outputs.", as_json
    )
    analyse.add_argument(
        "query", nargs="?", help="a name such as flag_rate, or a .sql file; without it, list them"
    )
    for option, kept in (("--since", "later"), ("--until", "earlier")):
        analyse.add_argument(
            option, type=_date, metavar="DATE", help=f"only archives of that date and {kept}"
        )
    return parser


def _day(text: str) -> str:
    try:
        return datetime.date.fromisoformat(text).isoformat()
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no date; write 2026-11-01") from None


def _positive(text: str) -> int:
    value = int(text) if text.isdecimal() else 0
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a positive number")
    return value


def _date(text: str) -> datetime.date:
    try:
        return datetime.date.fromisoformat(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is no date such as 2026-11-30") from error


def _mounted(settings: Settings) -> Volume:
    """The volume, for commands that would make another one where it is missing."""
    volume = Volume.of(settings)
    if not volume.root.is_dir():
        raise EarmarkError(f"there is no {volume.root} (volume.root); is the volume mounted?")
    return volume


def _connection(settings: Settings) -> str:
    return database.connection_string(settings.database.url, _mounted(settings).root)


def _has_database(settings: Settings) -> bool:
    url = settings.database.url
    return not database.is_embedded(url) or database.embedded_exists(Volume.of(settings).root)


def _existing(settings: Settings) -> str:
    """The connection, for commands that only read: they make no database."""
    if not _has_database(settings):
        root = Volume.of(settings).root
        if any(root.glob("processed/date=*/[!.]*.json")):
            raise EarmarkError(
                f"the database of {root} is gone, though archives are done; `earmark restore` "
                "brings a backup in, and `earmark redo --all` and a run load what the volume has"
            )
        raise EarmarkError(
            f"no run has left results in {root} yet; run the workflow first, or give the "
            "--configfile that it ran with"
        )
    return _connection(settings)


def _discover(settings: Settings, arguments: argparse.Namespace) -> int:
    volume, intake = Volume.of(settings), settings.source
    found = catalogue.discover(source_of(settings), volume, intake)
    states = state_of_each(found.archives, volume, intake)
    rows = [
        {
            "archive": archive.name,
            "bytes": archive.bytes,
            "date": archive.date,
            "age": age(archive.age_seconds),
            "state": states[archive.name],
        }
        for archive in found.archives
    ]
    pending = sum(state == "pending" for state in states.values())
    show(rows, arguments.json, f"{len(rows)} archives, {pending} pending")
    return UNANSWERED if found.problem else 0


def _status(settings: Settings, arguments: argparse.Namespace) -> None:
    now = status(settings)
    if arguments.prometheus:
        metrics.write(now, arguments.prometheus)
    if arguments.json:
        print(json.dumps(dataclasses.asdict(now), indent=2, ensure_ascii=False))
    elif not arguments.prometheus:
        show_status(now)


def _report(settings: Settings, arguments: argparse.Namespace) -> int:
    from earmark.watch.report import gather, tell, warning_of, write_report  # matplotlib is slow

    wanted = settings.review
    report = gather(settings)
    warning = warning_of(report.status.review)
    hour = datetime.datetime.now(ZoneInfo(wanted.timezone)).hour
    # First of all, as there may be no room for the report.
    if warning and arguments.alert and wanted.alert and hour in wanted.alert_hours:
        tell(wanted.alert, warning)
    print(write_report(settings, report))
    if warning:
        print(f"earmark: {warning}", file=sys.stderr)
    return MISSED if warning else 0


def _cycle(settings: Settings, arguments: argparse.Namespace) -> int:
    return cycle(settings, arguments.profile, arguments.directory)


def _retry(settings: Settings, arguments: argparse.Namespace) -> None:
    volume = _mounted(settings)
    if arguments.all and arguments.archives:
        raise EarmarkError("name archives or give --all, not both")
    if arguments.all or arguments.archives:
        quarantine.release(volume, None if arguments.all else arguments.archives)
        quarantine.record(volume, _connection(settings))
    rows = [
        {"archive": each.archive, "since": each.since, "reason": each.reason, "log": each.log}
        for each in quarantine.in_quarantine(volume)
    ]
    show(rows, arguments.json, f"{len(rows)} archives in quarantine")


def _doctor(settings: Settings, arguments: argparse.Namespace) -> int:
    volume = _mounted(settings)
    archives = doctor.done(volume, arguments.date)
    is_there = archives or _has_database(settings)
    rows = doctor.loaded(_existing(settings), arguments.date) if is_there else {}
    problems = [
        problem
        for date, archive in track(archives, "doctor", "archives", len(archives))
        for problem in doctor.examine(volume, date, archive, settings.retention, rows)
    ]
    problems += doctor.without_receipt(volume, rows, archives)
    told = [
        {"date": each.date, "archive": each.archive, "problem": each.problem, "mend": each.remedy}
        for each in problems
    ]
    show(told, arguments.json, f"{len(archives)} archives are done, {len(told)} don't fit together")
    return NOT_FITTING if problems else 0


def _redo(settings: Settings, arguments: argparse.Namespace) -> None:
    if not (arguments.archives or arguments.date or arguments.all):
        raise EarmarkError("name archives, a --date for all of its archives, or give --all")
    if arguments.all and (arguments.archives or arguments.date):
        raise EarmarkError("name archives or a --date, or give --all, not both")
    volume = _mounted(settings)
    # All of them are checked before the first is asked for.
    meant = list(redo.find(volume, settings, arguments.archives, arguments.date, arguments.stage))
    if not arguments.dry_run:
        for request in meant:
            ask(volume, request)
        redo.carry_out(volume, settings)
    waiting = {request.archive for request in requests(volume) if not request.begun}
    rows = [
        {
            "archive": request.archive,
            "date": request.date,
            "from": request.stage,
            "waits for the driver": request.archive in waiting,
        }
        for request in meant
    ]
    title = "Would be" if arguments.dry_run else "To be"
    show(rows, arguments.json, f"{title} done again by the next run: {len(rows)} archives")


def _clean(settings: Settings, arguments: argparse.Namespace) -> None:
    volume, source = Volume.of(settings), source_of(settings)
    known = catalogue.read(volume)
    if known.checked_at is None or not known.is_of(source):
        raise EarmarkError(
            f"nothing is known of {source} in {volume.root} yet, so nothing can be told to be "
            "left over; run `earmark discover` first"
        )
    totals: dict[tuple[str, str], dict[str, Any]] = {}
    found = retention.leftovers(volume, known.archives, settings.retention)
    sized = ((leftover, leftover.bytes) for leftover in found)
    gone = sized if arguments.dry_run else retention.remove(found, volume)
    for leftover, size in track(gone, "clean", "leftovers"):
        row = totals.setdefault(
            (leftover.archive, leftover.reason),
            {"archive": leftover.archive, "what": leftover.reason, "items": 0, "bytes": 0},
        )
        row["items"] += 1
        row["bytes"] += size
    rows = list(totals.values())
    if (days := settings.retention.text_days) is not None:
        count = retention.expire_rows(_existing(settings), days, arguments.dry_run)
        what = f"clips in the database older than {days:g} days, not reviewed"
        rows += [{"archive": "", "what": what, "items": count, "bytes": 0}] if count else []
    if settings.source.delete_after:
        done = {archive.name: archive for archive in safe_archives(volume, known.archives)}
        names = (
            list(done) if arguments.dry_run else delete_at_source(source, volume, known.archives)
        )
        reason = f"done, and still in {source}"
        rows += [
            {"archive": name, "what": reason, "items": 1, "bytes": done[name].bytes}
            for name in names
        ]
    verb = "Would remove" if arguments.dry_run else "Removed"
    total = decimal(sum(row["bytes"] for row in rows))
    show(rows, arguments.json, f"{verb} {sum(row['items'] for row in rows)} things, {total}")


def _erase(settings: Settings, arguments: argparse.Namespace) -> None:
    volume, conninfo = _mounted(settings), _existing(settings)
    if arguments.yes:
        for sha256, begun in erasure.Erased(volume).unfinished():
            found = erasure.find(volume, conninfo, sha256, begun)
            for each in erasure.erase(volume, conninfo, sha256, found):
                logger.info("finished what was cut off: erased from %s", each)
    if arguments.id is not None:
        content, known = erasure.clip_in_database(conninfo, arguments.id)
    elif arguments.ordinal is not None:
        name, ordinal, date = arguments.archive, arguments.ordinal, arguments.date
        content, known = erasure.clip_in_archive(volume, name, ordinal, date)
    else:
        raise EarmarkError("name a clip: its archive and its position in it, or --id")
    logger.info("looking for other uploads of the same content; that reads a whole table")
    found = erasure.find(volume, conninfo, content, known)
    rows = [
        erasure.describe(volume, content, upload) | {"what": what}
        for uploads, what in (
            (found.uploads, "the clip"),
            (found.formerly, "what older tables and queues say of it; another clip is there now"),
        )
        for upload in uploads
    ]
    if arguments.yes:
        for each in erasure.erase(volume, conninfo, content, found):
            logger.info("erased from %s", each)
    if held := backup.backups(_backups(settings)):
        logger.warning(
            "%d backups in %s may hold it until they are deleted, the oldest of %s",
            *(len(held), held[0].parent, held[0].name),
        )
    show(rows, arguments.json, "Erased" if arguments.yes else "To be erased with --yes")


def _models_fetch(settings: Settings, arguments: argparse.Namespace) -> None:
    from earmark.models import hub  # slow

    named = inventory.named_in(settings)
    for model in named:
        if model.is_folder:
            inventory.check_folder(model)
    wanted = [model for model in named if not model.is_folder]
    fetched = list(zip(wanted, hub.fetch(wanted), strict=True))
    rows = [
        {
            "model": snapshot.repository,
            "commit": snapshot.commit,
            "pin": model.pin,
            "pinned": model.revision is not None,
            "files": len(snapshot.files),
            "bytes": snapshot.bytes,
        }
        for model, snapshot in fetched
    ]
    size = decimal(sum(snapshot.bytes for _, snapshot in fetched))
    title = f"{len(rows)} models are here, whole, {size}"
    show(rows, arguments.json, title if rows else "Nothing to fetch: all models are folders")
    for model, snapshot in fetched:
        if model.revision is None:
            logger.warning(
                "%s is not pinned, and the next fetch may bring another commit; to keep this one, "
                "set %s: %s", snapshot.repository, model.pin, snapshot.commit,
            )  # fmt: skip


def _models_verify(settings: Settings, arguments: argparse.Namespace) -> int:
    conditions = inventory.inspect_all(settings, by_size=arguments.quick)
    rows = [dataclasses.asdict(condition) for condition in conditions]
    problems = sum(row["problem"] is not None for row in rows)
    title = f"Problems: {problems}" if problems else "All models are whole"
    if any(model.is_folder for model in inventory.named_in(settings)):
        title += " (of folders, only that their files are there is known)"
    show(rows, arguments.json, title)
    return DAMAGED if problems else 0


def _screening_policy(settings: Settings, arguments: argparse.Namespace) -> None:
    del arguments
    classify = settings.classify
    print(screening_policy(load_policies(Path(classify.policies), classify.categories)).text)


def _migrate(settings: Settings, arguments: argparse.Namespace) -> None:
    conninfo = _connection(settings)
    done = database.migrate(conninfo)
    done += database.grant_roles(conninfo, create=arguments.roles)
    print("\n".join(done) if done else "The database's schema is up to date.")


def _queue(settings: Settings, arguments: argparse.Namespace) -> None:
    known = [
        policy.category
        for policy in load_policies(Path(settings.classify.policies), settings.classify.categories)
    ]
    if arguments.category not in (None, *known):
        raise EarmarkError(
            f"there is no category '{arguments.category}'; known are {', '.join(known)}"
        )
    if arguments.controls:
        drawn = [dataclasses.asdict(c) for c in controls(_existing(settings), arguments.limit)]
        columns = ("review_probability", "id", "transcript_text", "doubt", "opus_path")
        shown = drawn if arguments.json else [{key: row[key] for key in columns} for row in drawn]
        show(shown, arguments.json, f"Controls: {len(drawn)} shown")
        return
    items = review_queue(_existing(settings), arguments.limit, arguments.category)
    if arguments.json:
        show([dataclasses.asdict(item) for item in items], True, "")
        return
    rows = [
        {
            "score": item.flag_score,
            "category": item.flag_category,
            "id": item.id,
            "transcript": item.transcript_text,
            "doubt": item.doubt,
            "audio": item.opus_path,
        }
        for item in items
    ]
    show(rows, False, f"Review queue: {len(rows)} shown")


def _review(settings: Settings, arguments: argparse.Namespace) -> None:
    from earmark.desk.server import serve  # the web's libraries are slow

    serve(settings, _existing(settings))


def _reviewer_add(settings: Settings, arguments: argparse.Namespace) -> None:
    role: accounts.Role = "lead" if arguments.lead else "reviewer"
    with database.connect(_existing(settings)) as connection:
        database.require_schema(connection)
        accounts.check_free(connection, arguments.name)
        accounts.add(connection, arguments.name, _new_password(arguments.name), role)
    print(f"{arguments.name} may sign in, as a {role}")


def _reviewer_password(settings: Settings, arguments: argparse.Namespace) -> None:
    with database.connect(_existing(settings)) as connection:
        database.require_schema(connection)
        accounts.set_password(connection, arguments.name, _new_password(arguments.name))
    print(f"{arguments.name} has another password, and is signed out")


def _reviewer_role(settings: Settings, arguments: argparse.Namespace) -> None:
    with database.connect(_existing(settings)) as connection:
        database.require_schema(connection)
        accounts.set_role(connection, arguments.name, arguments.role)
    print(f"{arguments.name} is a {arguments.role}")


def _reviewer_disable(settings: Settings, arguments: argparse.Namespace) -> None:
    with database.connect(_existing(settings)) as connection:
        database.require_schema(connection)
        accounts.set_active(connection, arguments.name, False)
    print(f"{arguments.name} may no longer sign in")


def _reviewer_enable(settings: Settings, arguments: argparse.Namespace) -> None:
    with database.connect(_existing(settings)) as connection:
        database.require_schema(connection)
        accounts.set_active(connection, arguments.name, True)
    print(f"{arguments.name} may sign in")


def _reviewer_list(settings: Settings, arguments: argparse.Namespace) -> None:
    with database.connect(_existing(settings)) as connection:
        database.require_schema(connection)
        rows = [dataclasses.asdict(account) for account in accounts.accounts(connection)]
    show(rows, arguments.json, f"{len(rows)} accounts")


def _new_password(name: str) -> str:
    if not sys.stdin.isatty():
        return sys.stdin.readline().rstrip("\r\n")
    least = accounts.LEAST_PASSWORD
    password = getpass.getpass(f"Password for {name}, at least {least} characters: ")
    if password != getpass.getpass("The same again: "):
        raise EarmarkError("the two passwords differ; nothing was changed")
    return password


def _backups(settings: Settings) -> Path:
    return Path(settings.database.backups or Volume.of(settings).root / "backups")


def _backup(settings: Settings, arguments: argparse.Namespace) -> None:
    wanted = settings.database
    folder = _backups(settings)
    if not arguments.list:
        made = backup.backup(_existing(settings), folder, wanted.keep_backups)
        logger.info("made %s", made)
    rows = [
        {"backup": str(path), "bytes": sum(file.stat().st_size for file in path.iterdir())}
        for path in backup.backups(folder)
    ]
    show(rows, arguments.json, f"{len(rows)} backups in {folder}")


def _restore(settings: Settings, arguments: argparse.Namespace) -> None:
    conninfo = _connection(settings)
    backup.restore(conninfo, arguments.backup)
    print(f"{arguments.backup} is in {database.display(conninfo)}")
    for sha256 in erasure.came_back(Volume.of(settings), conninfo):
        print(f"Erased once more, as the backup is older than its erasure: {sha256}")


def _health(settings: Settings, arguments: argparse.Namespace) -> None:
    counts = dataclasses.asdict(health(_existing(settings)))
    show([counts], arguments.json, "Clips of the last 24 hours")


def _database(settings: Settings, arguments: argparse.Namespace) -> None:
    url, root = settings.database.url, Volume.of(settings).root
    if arguments.stop:
        print(database.stop_embedded(root))
        return
    _mounted(settings)
    # Whoever takes the address will want the server to be there after this command.
    print(database.display(database.connection_string(url, root, keep_embedded=True)))


def _analyse(settings: Settings, arguments: argparse.Namespace) -> None:
    if arguments.query is None:
        rows = [{"query": name, "answers": text} for name, text in analysis.queries().items()]
        show(rows, arguments.json, "Queries in sql/analysis")
        return
    answer = analysis.run(
        arguments.query, Volume.of(settings).root, arguments.since, arguments.until
    )
    rows = [dict(zip(answer.columns, row, strict=True)) for row in answer.fetchall()]
    show(rows, arguments.json, arguments.query)
