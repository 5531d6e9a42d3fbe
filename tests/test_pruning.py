"""Stopping hopeless jobs, against medians taken by hand."""

from pathlib import Path

import pytest

from vaegan_pl.sweeps import jobs
from vaegan_pl.sweeps.pruning import Pruning

optuna = pytest.importorskip("optuna")

KID = "validation/kid"


def finished(
    sweep: Path, number: int, values: list[float], direction: str = "minimize", state: str = "finished"
) -> None:
    directory = sweep / str(number)
    directory.mkdir(parents=True)
    rows = [f"{10 * i + 9},{value}" for i, value in enumerate(values)]
    (directory / "seed_0").mkdir()
    (directory / "seed_0" / "metrics.csv").write_text("\n".join([f"step,{KID}", *rows, ""]))
    objective = jobs.Objective(KID, direction, 1e6)  # type: ignore[arg-type]
    run = jobs.Run(0, value=min(values), step=9, pruned=state == "pruned")
    jobs.Job(directory, [], objective, state, runs=[run]).write()  # type: ignore[arg-type]


def hopeless(sweep: Path, values: list[float], direction: str = "minimize", startup: int = 3, warmup: int = 1) -> bool:
    pruner = optuna.pruners.MedianPruner(n_startup_trials=startup, n_warmup_steps=warmup)
    callback = Pruning(sweep / "9" / "seed_0", KID, direction, pruner)
    callback.values = values
    return callback._is_hopeless()


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([9, 8, 5.1], True),  # the others stood at 3, 5 and 7 in the third epoch
        ([9, 8, 4.9], False),
        ([9, 4.9, 9], False),  # its best epoch counts
        ([99], False),  # within the first epochs nothing is pruned
    ],
)
def test_a_job_worse_than_the_median_of_the_others_is_hopeless(
    tmp_path: Path, values: list[float], expected: bool
) -> None:
    for number, third in enumerate([3, 5, 7]):
        finished(tmp_path, number, [20, 10, third])
    assert hopeless(tmp_path, values) is expected


def test_more_is_better_where_the_objective_says_so(tmp_path: Path) -> None:
    for number, third in enumerate([0.3, 0.5, 0.7]):
        finished(tmp_path, number, [0.1, 0.2, third], "maximize")
    assert hopeless(tmp_path, [0.1, 0.2, 0.4], "maximize")
    assert not hopeless(tmp_path, [0.1, 0.2, 0.6], "maximize")


def test_successive_halving_keeps_the_best_third_at_each_rung(tmp_path: Path) -> None:
    pruner = optuna.pruners.SuccessiveHalvingPruner(min_resource=1, reduction_factor=3)
    for number in range(8):
        finished(tmp_path, number, [float(number)] * 3)
    for value, expected in ((9.0, True), (0.5, False)):
        callback = Pruning(tmp_path / "9" / "seed_0", KID, "minimize", pruner)
        callback.values = [value, value]
        assert callback._is_hopeless() is expected


def test_hyperband_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="Hyperband cannot be used here; use SuccessiveHalvingPruner"):
        Pruning(tmp_path, KID, "minimize", optuna.pruners.HyperbandPruner())


def test_only_finished_jobs_are_compared_with_and_enough_of_them(tmp_path: Path) -> None:
    finished(tmp_path, 0, [1, 1, 1])
    finished(tmp_path, 1, [1, 1, 1])
    finished(tmp_path, 2, [1, 1, 1], state="pruned")
    assert not hopeless(tmp_path, [9, 9, 9])
    finished(tmp_path, 3, [1, 1, 1])
    assert hopeless(tmp_path, [9, 9, 9])
