# What the rules share: the checked configuration, the shape of the wildcards, and the
# archives to work on.
#
# Snakemake parses these files again in every job, on every machine. Only the main process
# looks at the source; a job touches neither network nor database here.

import atexit
import sys
from datetime import datetime
from zoneinfo import ZoneInfo

import msgspec

from earmark.errors import EarmarkError, refused_by_system
from earmark.configuration import check_files, resolve
from earmark.volume import ARCHIVE_NAME, Volume

#: What is said with a mistake where no file is named: the defaults are those of a cluster.
DEFAULTS_COUNT = (
    "\nNo --configfile was given, so config/config.yaml counts. To try Earmark out, add "
    "`--configfile demo/config.yaml`."
)


def explained(step, *arguments):
    """Call a step of the driver; what a person can put right ends the run in one sentence."""
    try:
        return step(*arguments)
    except EarmarkError as error:
        sys.exit(
            f"earmark: {error}{'' if workflow.overwrite_configfiles else DEFAULTS_COUNT}"
        )
    except OSError as error:
        sys.exit(f"earmark: {refused_by_system(error)}")


def receipts_of(archives):
    return [volume.receipt(archive.date, archive.name) for archive in archives]


def urgency(archive):
    return work.urgency(archive) if work else 0


def gpu_urgency(archive):
    return work.gpu_urgency(archive) if work else 0


def to_reclassify(wildcards):
    from earmark.driver.reclassify import to_reclassify as plan

    wanted, again = explained(plan, settings)
    workflow.dag.forcefiles.update(again)
    return wanted


def failed_archives():
    jobs = workflow.scheduler.failed if workflow.scheduler else ()
    return {job.wildcards.archive for job in tuple(jobs)}


def drives():
    """Whether the run works on archives: a report alone may be made beside one that does."""
    return set(workflow.dag_settings.targets) != {"daily_report"}


def todays_report(wildcards):
    date = datetime.now(ZoneInfo(settings.review.timezone)).date().isoformat()
    page = volume.report(date)
    workflow.dag.forcefiles.add(str(page))
    return page


def begin(log):
    if drives():
        explained(work.begin)


def end(log):
    """Tidy up, and say what was done after all that Snakemake has to say."""
    if drives():
        try:
            explained(work.end)
        finally:
            said = explained(work.summary, workflow.configfiles)
            atexit.register(print, said, file=sys.stderr)


if workflow.is_main_process:
    explained(check_files, workflow.configfiles)
settings = explained(resolve, config)
config.update(msgspec.to_builtins(settings))
volume = Volume.of(settings)
#: What to work on; None in a job, which knows what it is of and need not load all that drives.
work = None
if workflow.is_main_process:
    from earmark.driver.work import Work

    work = Work(settings, failed_archives)


wildcard_constraints:
    archive=ARCHIVE_NAME.pattern,
    date=r"\d{4}-\d{2}-\d{2}",
