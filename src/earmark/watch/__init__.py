"""How things stand: status, the day's report, the forecast for the review deadline, the doctor.

Rule ``daily_report``.  May import every other room but :mod:`earmark.desk`.
"""
