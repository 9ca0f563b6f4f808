"""Errors that are meant for a person."""

import errno


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

    Attributes:
        key: The configuration's key that names what is wrong, such as ``classify.adapter``; None
            if there is none, or several.
    """

    def __init__(self, message: str, key: str | None = None) -> None:
        """Say what is wrong.

        Args:
            message: A sentence for a person.
            key: See above.
        """
        super().__init__(message)
        self.key = key


_MOUNT = "the disk or its mount has failed: see `dmesg`, and mount it again"
_FILES = "too many files are open: raise `ulimit -n`"
_SPACE = "make space, or raise the quota"
_RIGHTS = "check its owner and mode, and who runs this"
_REMEDIES = {
    errno.ENOSPC: _SPACE,
    errno.EDQUOT: _SPACE,
    errno.EACCES: _RIGHTS,
    errno.EPERM: _RIGHTS,
    errno.EROFS: "it is mounted read-only",
    errno.ENOENT: "check that volume.root (or VOLUME_ROOT) is mounted; something else may have "
    "removed it",
    errno.ENOTDIR: "a file is where a folder belongs",
    errno.ENOTEMPTY: "something is written there now; try again",
    errno.EIO: _MOUNT,
    errno.ESTALE: _MOUNT,
    errno.ENOTCONN: _MOUNT,
    errno.ETIMEDOUT: _MOUNT,
    errno.EMFILE: _FILES,
    errno.ENFILE: _FILES,
    errno.ENAMETOOLONG: "the name is too long for the file system; rename the archive",
}


def refused_by_system(error: OSError) -> str:
    """What the operating system refused, where, and what helps, in a sentence."""
    where = f" {error.filename}" if error.filename else ""
    remedy = _REMEDIES.get(error.errno or 0)
    said = f"the system refused{where}: {error.strerror or error}"
    return f"{said}; {remedy}" if remedy else said
