"""How things stand: status, the day's report, and the forecast for the review deadline.

Rule ``daily_report``.  May import every other room but :mod:`earmark.desk`.
"""
