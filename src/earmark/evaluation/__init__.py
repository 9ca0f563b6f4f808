"""How good a classifier and a recogniser are, measured against what people say.

`earmark evaluate`.  May import :mod:`earmark.policy`, :mod:`earmark.speech`, the database of
:mod:`earmark.record` and the ground modules; the review desk writes gold sets in its format, and
driver and report read what it keeps.
"""
