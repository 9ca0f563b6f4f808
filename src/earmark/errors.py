"""Errors that are meant for a person."""


class EarmarkError(Exception):
    """Something a person can put right: says what is wrong, where, and what to do.

    Commands print it as one message without a traceback and exit with status 2.
    """


class UnavailableError(EarmarkError):
    """Something that no archive can go on without isn't there now: the source, the database.

    Trying again later is the remedy, and no archive is to blame.
    """


class SetupError(EarmarkError):
    """Something is wrong with what all archives share: the configuration, a model, the schema.

    A person has to put it right, and no archive is to blame.
    """


def refused_by_system(error: OSError) -> str:
    """What the operating system refused, in a sentence."""
    where = f" {error.filename}" if error.filename else ""
    return (
        f"the system refused{where}: {error.strerror or error}; "
        "check volume.root (or VOLUME_ROOT), rights and space"
    )
