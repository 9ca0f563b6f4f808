"""The review desk: where people listen to what was flagged, and decide.

A web application whose state is all in PostgreSQL.  :mod:`~earmark.desk.claims` says who has
which item, :mod:`~earmark.desk.decisions` what was decided about it, and
:mod:`~earmark.desk.accounts` who is who; they know nothing of the web, which
:mod:`~earmark.desk.web`, the pages and :mod:`~earmark.desk.app` do.  May import
:mod:`earmark.record` and all below it; knows nothing of :mod:`earmark.driver`.
"""
