"""What is kept of jobs, and how they are ranked."""

from pathlib import Path

import pytest

from vaegan_pl.errors import UserError
from vaegan_pl.jobs import Job, Objective, Run, in_directory, read, read_series, swept

LOSSES = {"validation/kid": [(9, 3.0), (19, float("nan")), (29, 1.5), (39, 2.0)], "step": []}


def test_the_best_epoch_is_the_least_or_the_greatest_finite_value() -> None:
    assert Objective("validation/kid", "minimize", 1e6).best(LOSSES) == (29, 1.5)
    assert Objective("validation/kid", "maximize", 1e6).best(LOSSES) == (9, 3.0)
    with pytest.raises(UserError, match="validation/kid was never a finite number"):
        Objective("validation/kid", "minimize", 1e6).best({"validation/kid": [(9, float("inf"))]})


def test_a_job_is_read_as_it_was_written(tmp_path: Path) -> None:
    objective, runs = Objective("validation/kid", "minimize", 7.0), [Run(3, "seed_3", 1.5)]
    job = Job(tmp_path, ["a=1"], objective, "failed", attempts=2, moved=1.5, runs=runs, reason="x")
    job.write()
    assert read(tmp_path) == job


def test_scores_are_means_over_seeds_and_copies_count_as_the_worst() -> None:
    objective = Objective("validation/kid", "minimize", 100.0)
    runs = [Run(0, "a", 1.0), Run(1, "b", 2.0)]
    assert Job(Path(), [], objective, "finished", runs=runs).score == 1.5
    assert Job(Path(), [], objective, "failed", runs=runs).score == 100
    assert Job(Path(), [], objective, "running").score == 100
    runs[1].copies = "FAIL"
    assert Job(Path(), [], objective, "finished", runs=runs).score == 50.5


def test_the_worst_lies_on_the_bad_side_whichever_way_is_better() -> None:
    for direction, sign in (("minimize", 1), ("maximize", -1)):
        objective = Objective("validation/coverage", direction, 100.0)  # type: ignore[arg-type]
        assert Job(Path(), [], objective, "failed").score == sign * 100
        copier = Job(Path(), [], objective, "finished", runs=[Run(0, "a", 0.5, copies="FAIL")])
        assert copier.score == sign * 100
        assert not copier.counts
    with pytest.raises(UserError, match=r"sweep\.worst=-1: must be a positive number"):
        Objective("validation/kid", "minimize", -1)


def test_a_row_that_is_not_finished_is_left_out(tmp_path: Path) -> None:
    (tmp_path / "metrics.csv").write_text("step,validation/kid\n9,1.5\n19,0.2")
    assert read_series(tmp_path / "metrics.csv") == {"step": [(9, 9.0)], "validation/kid": [(9, 1.5)]}


def test_swept_options_are_those_in_which_jobs_differ(tmp_path: Path) -> None:
    objective = Objective("validation/kid", "minimize", 1.0)
    for number, options in (("10", ["a=1", "b=2", "c=x"]), ("2", ["a=1", "b=3"])):
        (tmp_path / number).mkdir()
        Job(tmp_path / number, options, objective).write()
    found = in_directory(tmp_path)
    assert [job.number for job in found] == ["2", "10"]
    assert swept(found) == {"b": ["3", "2"], "c": ["", "x"]}
