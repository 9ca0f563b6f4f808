"""What is done when, and again: the process that schedules jobs, and what each job has around it.

The hooks of the workflow, ``earmark cycle``, attempts, quarantine, retention.  May import
:mod:`earmark.record` and all below it; knows nothing of :mod:`earmark.desk`.
"""
