"""Going on with a search on another machine or with other code, where replay is not exact."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from amc.journal import Journal, checked, context_of, differences


def continue_elsewhere(journal: Path, facts: Mapping[str, Any]) -> list[str]:
    """Begin ``journal`` anew, as one that continues what it holds; return what differs.

    The old one stays beside it as ``journal-N.jsonl``; requests that are on record there are
    answered from there. Nothing is done where nothing differs; what an older journal does not say
    may differ. Raises ``InputError`` where more differs than machine, versions and code.
    """
    contents = checked(journal, facts, elsewhere=True)
    different = differences(contents.header, facts, unknown=True)
    if not different:
        return []
    earlier = list(contents.header.get("continues", ()))
    number = 1
    while (old := journal.with_name(f"journal-{number}.jsonl")).exists():
        number += 1
    os.link(journal, old)
    own = {"context": context_of(contents.header), "continues": [*earlier, old.name]}
    Journal.create(journal, facts, **own)
    return list(different.values())
