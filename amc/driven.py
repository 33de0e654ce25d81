"""A run folder in the hands of the one process that goes on with it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from amc.config_identity import evaluations_of
from amc.elsewhere import continue_elsewhere
from amc.errors import InputError
from amc.journal import Journal, checked
from amc.leftovers import remove_abandoned, remove_leftovers
from amc.ownership import PATIENCE_S, owned
from amc.reporting import Reporter
from amc.run_folder import RunFolder


@contextmanager
def driven(path: Path, patience_s: float = PATIENCE_S) -> Iterator[RunFolder]:
    """Own the run in ``path`` and yield it, as it is now that no one else can change it.

    Raises ``InputError`` where there is none, where another process still owns it after
    ``patience_s``, and where its configuration is not that of its searches.
    """
    RunFolder.open(path)  # nothing is put into a folder that is none
    with owned(path, patience_s=patience_s):
        remove_leftovers(path)
        remove_abandoned(path)
        folder = RunFolder.open(path)
        folder.check_searches()
        yield folder


def open_journals(
    folder: RunFolder, facts: Mapping[str, Mapping[str, Any]], reporter: Reporter, elsewhere: bool
) -> list[Journal]:
    """Open every journal of the run, or refuse before anything is written.

    ``facts`` are those of each agent's journal; with ``elsewhere`` machine, versions and code may
    be others.
    """
    for one in folder.searches:
        records = len(checked(one.journal, facts[one.agent], elsewhere).records)
        if records > (evaluations := evaluations_of(folder.config, one.agent)):
            raise InputError(
                f"{str(one.journal)!r} holds {records} evaluations, but evaluations of {one.name} "
                f"is {evaluations} in {str(folder.path / 'config.yaml')!r}; a run can only grow: "
                f"put {records} there"
            )
    if elsewhere:
        for one in folder.searches:
            for told in continue_elsewhere(one.journal, facts[one.agent]):
                reporter.message(f"{one.name} goes on elsewhere: {told}")
    journals = [Journal(one.journal, facts[one.agent]) for one in folder.searches]
    for one, journal in zip(folder.searches, journals, strict=True):
        if journal.torn_bytes:
            reporter.message(
                f"{one.name}: dropped the last {journal.torn_bytes} bytes of the journal, a record "
                "that was cut short"
            )
    return journals
