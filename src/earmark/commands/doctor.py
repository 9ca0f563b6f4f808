"""`earmark doctor`: whether what is kept fits together."""

import argparse

from earmark.commands import place
from earmark.commands.parser import Commands, add, configfile, day_of_path
from earmark.progress import track
from earmark.record.erasure import Erased
from earmark.settings import Settings
from earmark.watch import doctor
from earmark.watch.display import printable, show
from earmark.wording import counted, with_configuration

#: Exit status when something doesn't fit together.
NOT_FITTING = 1


def add_to(commands: Commands) -> None:
    """Add the command."""
    parser = add(
        commands, "doctor", _doctor,
        "Check whether files and database agree about the archives that are done, and say what "
        "mends the rest. Exit status 1 if anything doesn't fit.", as_json=True,
    )  # fmt: skip
    parser.add_argument(
        "--date", type=day_of_path, metavar="YYYY-MM-DD", help="of the archives (default: all days)"
    )


def _doctor(settings: Settings, arguments: argparse.Namespace) -> int:
    volume = place.mounted(settings)
    archives = doctor.done(volume, arguments.date)
    is_there = archives or place.has_database(settings)
    rows = doctor.loaded(place.existing_database(settings), arguments.date) if is_there else {}
    problems = [
        problem
        for date, archive in track(archives, "doctor", "archives", len(archives))
        for problem in doctor.examine(volume, date, archive, settings.retention, rows)
    ]
    problems += doctor.without_receipt(volume, rows, archives)
    given = arguments.configfile if arguments.configfile != configfile() else None
    told = [
        {
            "date": each.date,
            "archive": each.archive,
            "problem": each.problem,
            "mend": each.remedy(given),
        }
        for each in problems
    ]
    if unfinished := len(list(Erased(volume).unfinished())):
        told.append(
            {
                "date": None,
                "archive": None,
                "problem": f"{counted(unfinished, 'erasure')} cut off",
                "mend": f"{with_configuration('erase', given)} --yes",
            }
        )
    title = f"{len(archives)} archives are done, {len(told)} don't fit together"
    show(told if arguments.json else [], arguments.json, title)
    for each in () if arguments.json else told:
        where = f"{each['date']} {each['archive']}: " if each["archive"] else ""
        print(printable(f"{where}{each['problem']}"))
        if each["mend"] is not None:  # whole in a line of its own, to be copied
            print(printable(f"    {each['mend']}"))
    return NOT_FITTING if told else 0
