"""For Snakemake's main process: ask SLURM about jobs at least every two seconds.

Version 2.8 of the plugin asks ten seconds later each time that no job has ended, and no option
says otherwise. Jobs of tests take seconds, so that most of a test's time went by between two
questions. Python imports this module when it starts with its folder on PYTHONPATH.
"""

import sys

if any(part.endswith("snakemake") for part in sys.orig_argv):
    import asyncio

    from snakemake_interface_executor_plugins.executors.remote import RemoteExecutor

    async def sleep(self: RemoteExecutor) -> None:
        """Wait before the next question."""
        await asyncio.sleep(min(self.next_seconds_between_status_checks, 2))

    assert RemoteExecutor.sleep, "the plugin waits in another way"
    RemoteExecutor.sleep = sleep
