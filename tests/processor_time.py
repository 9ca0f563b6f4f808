"""Processor time of this process and the children that it has awaited."""

import resource


def processor_seconds() -> float:
    """All of it so far; unlike the time on a clock it does not grow while others work."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(each.ru_utime + each.ru_stime for each in used)
