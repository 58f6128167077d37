"""Words that the messages of different files share."""

from collections.abc import Iterable

LISTED = 8  # the most names of one list in a message


def listing(items: Iterable[object], separator: str = ", ") -> str:
    """Items in their order for a message; of many the first, and how many more there are."""
    texts = [str(item) for item in items]
    more = [f"and {len(texts) - LISTED} more"] if len(texts) > LISTED else []
    return separator.join(texts[:LISTED] + more) or "nothing"
