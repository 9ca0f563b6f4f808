"""Words that go with numbers."""


def counted(count: int, noun: str) -> str:
    """A number with what it counts, such as ``1 archive`` or ``2,000 archives``.

    Args:
        count: How many.
        noun: One of them; its plural ends in s.
    """
    return f"{count:,} {noun if count == 1 else noun + 's'}"
