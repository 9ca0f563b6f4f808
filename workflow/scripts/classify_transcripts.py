"""Classify the transcripts of one archive against the written policies."""
