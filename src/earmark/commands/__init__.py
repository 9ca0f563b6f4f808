"""What the ``earmark`` command does: a module for each word that may follow it.

A command's module says what the command takes (``add_to``) and does it, by calling the rooms. Only
the module of the command that was called is imported, so that one that asks a file or two does not
wait for the libraries of all the others. Nothing but ``earmark.cli`` imports from here.
"""

#: In the order of ``earmark --help``. The module of ``screening-policy`` is ``screening_policy``.
NAMES = (
    *("init", "check", "discover", "cycle", "doctor", "redo", "retry", "status", "report"),
    *("clean", "erase"),
    *("models", "screening-policy", "migrate", "queue", "review", "reviewer", "backup", "restore"),
    *("health", "search", "show", "export", "database", "evaluate", "gold-set", "harm"),
    "analyse",
)
