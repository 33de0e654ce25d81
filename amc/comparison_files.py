"""What ``amc compare`` writes: the page and the picture of the learning curves."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from amc.comparison import by_setting, curves, curves_json, groups_of, read_runs
from amc.errors import InputError
from amc.files import check_writable, write_text
from amc.run_folder import RunFolder


def comparison(run_dirs: Sequence[Path], html: Path | None, picture: Path | None) -> dict[str, Any]:
    """Write page and picture, as far as asked for; return rows, ``curves`` and where those are.

    Raises ``InputError`` for a picture of runs of several tasks or batch sizes.
    """
    for path, option in ((html, "--html"), (picture, "--curves")):
        if path is not None:
            check_writable(path, option)
    rows = [
        {**row, "run_dir": str(path)}
        for path in run_dirs
        for row in RunFolder.open(path).read_summary()
    ]
    if html is None and picture is None:
        return {"rows": rows}
    runs = read_runs(run_dirs)
    answer: dict[str, Any] = {"rows": rows, "curves": curves_json(runs)}
    if picture is not None:
        from amc.curve_plots import learning_curves
        from amc.plots import save

        settings = by_setting(runs)
        if len(settings) > 1:
            names = " and ".join(f"{task} at batch {size}" for task, size in settings)
            raise InputError(f"--curves draws one task and batch size, but these runs are {names}")
        ((task, _),) = settings
        save(learning_curves(f"{task}: best so far", *curves(groups_of(runs))), picture)
        answer["picture"] = str(picture)
    if html is not None:
        from amc.comparison_page import comparison_page

        write_text(html, comparison_page(runs))
        answer["page"] = str(html)
    return answer
