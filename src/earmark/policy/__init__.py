"""Written policies, and the language model that says whether a transcript falls under one.

Rule ``classify_transcripts``.  May import :mod:`earmark.models`, the draw of
:mod:`earmark.ingest.selection` and the ground modules; knows nothing of :mod:`earmark.speech`.
"""
