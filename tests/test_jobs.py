"""What is kept of jobs, and how they are ranked."""

import json
import resource
import time
from pathlib import Path
from typing import Any

import pytest

from vaegan_pl.errors import UserError
from vaegan_pl.runs.metrics import read_series
from vaegan_pl.storage.files import printable
from vaegan_pl.sweeps.jobs import Job, Objective, Plan, Run, in_directory, read, read_plan, swept

LOSSES = {"validation/kid": [(9, 3.0), (19, float("nan")), (29, 1.5), (39, 2.0)], "step": []}


def test_the_best_epoch_is_the_least_or_the_greatest_finite_value() -> None:
    assert Objective("validation/kid", "minimize", 1e6).best(LOSSES) == (29, 1.5)
    assert Objective("validation/kid", "maximize", 1e6).best(LOSSES) == (9, 3.0)
    with pytest.raises(UserError, match="validation/kid was never a finite number"):
        Objective("validation/kid", "minimize", 1e6).best({"validation/kid": [(9, float("inf"))]})


def test_a_job_is_read_as_it_was_written(tmp_path: Path) -> None:
    objective, runs = (
        Objective("validation/kid", "minimize", 7.0),
        [Run(3, 1.5, figures={"validation/psnr": 20.5}, seconds=3.5, wandb="p/abc")],
    )
    job = Job(tmp_path, ["a=1"], objective, "failed", attempts=2, moved=1.5, runs=runs, reason="x")
    job.write()
    assert read(tmp_path) == job


def test_scores_are_means_over_seeds_and_copies_count_as_the_worst() -> None:
    objective = Objective("validation/kid", "minimize", 100.0)
    runs = [Run(0, 1.0), Run(1, 2.0)]
    assert Job(Path(), [], objective, "finished", runs=runs).score == 1.5
    assert Job(Path(), [], objective, "failed", runs=runs).score == 100
    assert Job(Path(), [], objective, "running").score == 100
    runs[1].copies = "FAIL"
    assert Job(Path(), [], objective, "finished", runs=runs).score == 50.5


def test_the_worst_lies_on_the_bad_side_whichever_way_is_better() -> None:
    for direction, sign in (("minimize", 1), ("maximize", -1)):
        objective = Objective("validation/coverage", direction, 100.0)  # type: ignore[arg-type]
        assert Job(Path(), [], objective, "failed").score == sign * 100
        copier = Job(Path(), [], objective, "finished", runs=[Run(0, 0.5, copies="FAIL")])
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


RECORD: dict[str, Any] = {
    "directory": None,
    "overrides": ["model.gamma=1"],
    "objective": {"metric": "validation/kid", "direction": "minimize", "worst": 1e6},
    "state": "finished",
    "attempts": 1,
    "moved": 0.0,
    "audit": 0,
    "runs": [{"seed": 0, "value": 1.5, "step": 9, "copies": None, "pruned": False}],
    "reason": None,
    "score": 1.5,
}


def record(tmp_path: Path, **changes: Any) -> Path:
    (tmp_path / "job.json").write_text(json.dumps({**RECORD, **changes}))
    return tmp_path


def test_records_of_earlier_versions_are_read(tmp_path: Path) -> None:
    runs = [{**RECORD["runs"][0], "directory": "seed_0"}]
    job = read(record(tmp_path, runs=runs))
    assert (job.runs[0].directory, job.runs[0].value, job.runs[0].figures) == ("seed_0", 1.5, {})


@pytest.mark.parametrize(
    "changes",
    [
        {"runs": [{**RECORD["runs"][0], "directory": "/home"}]},
        {"runs": [{**RECORD["runs"][0], "directory": "../.."}]},
        {"runs": [{**RECORD["runs"][0], "seed": -1}]},
        {"runs": [{**RECORD["runs"][0], "seed": "0/../.."}]},
        {"runs": [{**RECORD["runs"][0], "value": "much"}]},
        {"runs": [{**RECORD["runs"][0], "figures": {"a": "b"}}]},
        {"runs": [{**RECORD["runs"][0], "figures": {"\x1b[2J": 1.0}}]},
        {"runs": [{**RECORD["runs"][0], "copies": "PERHAPS"}]},
        {"runs": [{**RECORD["runs"][0], "extra": 1}]},
        {"runs": {"0": 1}},
        {"runs": [[]]},
        {"overrides": "model.gamma=1"},
        {"overrides": [1]},
        {"overrides": ["model.gamma=\x1b[2J"]},
        {"state": "asleep"},
        {"attempts": "1"},
        {"attempts": True},
        {"objective": {"metric": "validation/kid"}},
        {"objective": None},
        {"directory_": "/home"},
    ],
    ids=str,
)
def test_a_record_that_no_job_wrote_is_refused_in_one_line(tmp_path: Path, changes: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=r"job\.json: is damaged") as refusal:
        read(record(tmp_path, **changes))
    assert printable(refusal.value) == str(refusal.value)


@pytest.mark.parametrize("text", ["", "[", "[]", "1", "null", "[" * 20_000, '{"runs": 1}'])
def test_what_is_no_record_is_refused_in_one_line(tmp_path: Path, text: str) -> None:
    (tmp_path / "job.json").write_text(text)
    with pytest.raises(UserError, match=r"job\.json: is damaged"):
        read(tmp_path)
    (tmp_path / "options.json").write_text(text)
    if text != "[]":  # what earlier versions wrote of a sweep without options
        with pytest.raises(UserError, match=r"options\.json: is damaged"):
            read_plan(tmp_path)


@pytest.mark.parametrize(
    "content",
    [
        {"options": [1]},
        {"options": [], "jobs": {"a": "../.."}},
        {"options": [], "jobs": {"a": 1}},
        {"options": [], "planned": "many"},
        {"options": [], "objective": {"metric": 1, "direction": "minimize", "worst": 1}},
        {"options": [], "surprise": 1},
    ],
    ids=str,
)
def test_a_plan_that_no_sweep_wrote_is_refused(tmp_path: Path, content: dict[str, Any]) -> None:
    (tmp_path / "options.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match=r"options\.json: is damaged"):
        read_plan(tmp_path)


def test_a_plan_comes_back(tmp_path: Path) -> None:
    assert read_plan(tmp_path) is None
    plan = Plan(["model.gamma=1,2"], Objective("validation/kid", "minimize", 1.0), 2, {"model.gamma=1": "0"})
    plan.write(tmp_path)
    assert read_plan(tmp_path) == plan
    (tmp_path / "options.json").write_text('["a=1"]')
    with pytest.raises(UserError, match="not a plan of this project"):
        read_plan(tmp_path)
    (tmp_path / "0").mkdir()
    (tmp_path / "0" / "job.json").touch()  # as earlier versions wrote it
    assert read_plan(tmp_path) == Plan(["a=1"])


@pytest.mark.parametrize(
    "text",
    [
        "a,b\n1,2\n",
        "step,step\n1,2\n",
        "step,a\n1,2,3\n",
        "step,a\n1\n",
        "step,a\nfirst,2\n",
        "step,a\n-1,2\n",
        "step,a\n\u00b2,2\n",
        "step,a\n1,much\n",
        "step,\x1b[2J\n1,2\n",
        'step,"a\n1,2\n',
        "step," + ",".join(map(str, range(200))) + "\n",
        "step,a\n1,\x00\n",
        "step,a\n\n",
        "\n" * 2**24,
    ],
)
def test_figures_that_no_run_wrote_are_refused_in_one_line(tmp_path: Path, text: str) -> None:
    (tmp_path / "metrics.csv").write_text(text)
    with pytest.raises(UserError, match=r"metrics\.csv: is damaged") as refusal:
        read_series(tmp_path / "metrics.csv")
    assert printable(refusal.value) == str(refusal.value)


def test_figures_without_end_cost_little(tmp_path: Path) -> None:
    path = tmp_path / "metrics.csv"
    path.write_text("step,a\n" + "1,2\n" * 2**20)
    before, started = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    with pytest.raises(UserError, match=r"metrics\.csv: contains more than"):
        read_series(path)
    with path.open("ab") as file:
        file.truncate(2**40)
    with pytest.raises(UserError, match=r"metrics\.csv: is larger than"):
        read_series(path)
    assert time.process_time() - started < 5
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 300 * 1024
