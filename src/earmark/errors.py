"""The one exception that is meant for a person."""


class EarmarkError(Exception):
    """Something a person can put right: says what is wrong, where, and what to do.

    Commands print it as one message without a traceback and exit with status 2.
    """
