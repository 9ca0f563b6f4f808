"""Ways to make the system refuse, for real."""

import resource
from contextlib import contextmanager


@contextmanager
def largest_file(size):
    """Let this process and its children write no file larger than this many bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
