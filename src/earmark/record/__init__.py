"""What is kept of archives that are done: the database, its queue, and questions to the tables.

Rule ``load_pg``, and the commands that look into, back up or erase what was recorded.  May import
all that makes the tables (:mod:`earmark.ingest`, :mod:`earmark.speech`, :mod:`earmark.policy`,
:mod:`earmark.models`) and the ground modules.
"""
