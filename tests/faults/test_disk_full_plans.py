"""Plans that are exported and applied onto a full disk: earlier files stay as they were (R7)."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from amc.cli import application
from tests.faults.disk import BALLAST, fill_at, whole


def amc(*arguments: object) -> tuple[int, str]:
    result = CliRunner().invoke(application, [str(argument) for argument in arguments])
    return result.exit_code, " ".join(result.stderr.split())


def refused(disk: Path, place: str, but_kb: int, arguments: list[object]) -> None:
    """Assert that a command stops at ``place`` for lack of space, and leaves all as it was."""
    before = whole(disk)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COLUMNS", "1000")
        fill_at(disk, place, patch, but_kb)
        code, told = amc(*arguments)
    assert (disk / BALLAST).exists(), f"{place} was not written: {told}"
    (disk / BALLAST).unlink()
    assert code == 1, told
    wanted = f"no space left for '{disk / place}'; what was there is whole; free some space"
    assert told.endswith(f"error: {wanted}")
    assert whole(disk) == before


SLOW = pytest.mark.slow
FILES = ("out.weights.safetensors", "out.finetuned.safetensors", "out.json")


@pytest.mark.parametrize("before", [None, "ddpg"])
def test_an_export_is_all_or_nothing(
    digits_run: Path, tmp_path: Path, disk: Path, before: str | None
) -> None:
    if before is not None:
        assert amc("export", digits_run, "--agent", before, "--out", disk / "out.json")[0] == 0
        assert amc("validate", disk / "out.json")[0] == 0
    export: list[object] = ["export", digits_run, "--agent", "netadapt", "--out"]
    for place in FILES:
        for but_kb in (0,) if place == "out.json" else (0, 4):  # a plan is smaller
            refused(disk, place, but_kb, [*export, disk / "out.json"])
    assert amc(*export, disk / "out.json")[0] == 0
    assert amc(*export, tmp_path / "other/out.json")[0] == 0
    assert set(whole(disk)) == set(FILES)
    assert whole(disk) == whole(tmp_path / "other")


@pytest.mark.parametrize(
    "suffix",
    [".safetensors", *(pytest.param(s, marks=pytest.mark.slow) for s in (".onnx", ".pt2"))],
)
def test_what_apply_wrote_before_stays(
    digits_run: Path, tmp_path: Path, disk: Path, suffix: str
) -> None:
    plans = [digits_run / f"{agent}-s0/plan.json" for agent in ("ddpg", "netadapt")]
    out = disk / f"out{suffix}"
    for plan in plans:
        for but_kb in (0, 4):
            refused(disk, out.name, but_kb, ["apply", plan, "--out", out])
        assert amc("apply", plan, "--out", out)[0] == 0
    assert amc("apply", plans[1], "--out", tmp_path / f"other/out{suffix}")[0] == 0
    assert list(whole(disk)) == [out.name]
    if suffix != ".pt2":  # an archive has times in it
        assert whole(disk) == whole(tmp_path / "other")
