"""Where commands work: the volume and its database, and what is said where they are missing."""

from pathlib import Path

from earmark.errors import EarmarkError
from earmark.record import database
from earmark.settings import Settings
from earmark.volume import Volume


def mounted(settings: Settings) -> Volume:
    """The volume, for commands that would make another one where it is missing.

    Raises:
        EarmarkError: There is none.
    """
    volume = Volume.of(settings)
    if not volume.root.is_dir():
        raise EarmarkError(f"there is no {volume.root} (volume.root); is the volume mounted?")
    return volume


def connection(settings: Settings) -> str:
    """The database's connection string; raises as :func:`mounted`."""
    return database.connection_string(settings.database.url, mounted(settings).root)


def has_database(settings: Settings) -> bool:
    """Whether there is a database to ask, as far as files tell."""
    url = settings.database.url
    return not database.is_embedded(url) or database.embedded_exists(Volume.of(settings).root)


def existing_database(settings: Settings) -> str:
    """The database's connection string, for commands that only read: they make no database.

    Raises:
        EarmarkError: There is none.
    """
    if not has_database(settings):
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
    return connection(settings)


def backups(settings: Settings) -> Path:
    """The folder of backups."""
    return Path(settings.database.backups or Volume.of(settings).root / "backups")
