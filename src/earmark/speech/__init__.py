"""Speech to text: from an archive's clips to its table of transcripts.

Rule ``transcribe_audio``.  May import :mod:`earmark.ingest`, :mod:`earmark.models` and the
ground modules; knows nothing of :mod:`earmark.policy`.
"""
