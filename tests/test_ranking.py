"""Which job of a sweep wins, and what the console says about it; records and numbers made by hand."""

import random
import shlex
from pathlib import Path

from vaegan_pl.sweeps import jobs, verdict
from vaegan_pl.sweeps.bookkeeping import rank
from vaegan_pl.sweeps.jobs import Job, Objective, Plan, Run
from vaegan_pl.sweeps.options import data_options, training_command
from vaegan_pl.sweeps.ranking import Ranking, pareto_front

BY_KID = Objective("validation/kid", "minimize", 1e6)
BY_PSNR = Objective("validation/psnr", "maximize", 1e6)


def make(
    sweep: Path,
    number: int,
    values: list[float],
    options: tuple[str, ...] = (),
    objective: Objective = BY_KID,
    state: jobs.State = "finished",
    copies: str | None = "PASS",
    files: tuple[str, ...] = ("vae_gan_model.pth", "vae_gan_model_best.pth"),
) -> None:
    """A job with a run for each value, and the model files of each run."""
    directory = sweep / str(number)
    for seed in range(len(values)):
        (directory / f"seed_{seed}").mkdir(parents=True)
        for name in files:
            (directory / f"seed_{seed}" / name).touch()
    directory.mkdir(exist_ok=True)
    runs = [Run(seed, value, 9, copies) for seed, value in enumerate(values)]
    Job(directory, [f"model.gamma={number}", *options], objective, state, runs=runs).write()


def ranked(sweep: Path) -> Ranking:
    return rank(sweep, jobs.in_directory(sweep))


def said(sweep: Path) -> list[str]:
    ranking = ranked(sweep)
    best = ranking.best
    data, again = ([], "") if best is None else (data_options(best), training_command(best))
    return verdict.announcement(ranking, data, again)


def test_the_end_of_a_sweep_names_the_winner_and_what_to_do_with_it(tmp_path: Path) -> None:
    sweep = tmp_path / "my sweep"
    of_data = ("data=mri", "data.root=/my images", "data.batch_size=8", "+data.strange=1")
    make(sweep, 1, [3.0, 5.0], of_data)
    make(sweep, 2, [2.5, 1.5], of_data)
    make(sweep, 3, [0.5, 0.5], of_data, copies="FAIL")
    lines = said(sweep)
    assert lines[0].split() == ["winner", "job", "2:", "model.gamma=2"]
    assert "validation/kid 2, mean over 2 seeds (1.5 to 2.5); copies: PASS" in lines[1]
    assert "job 1: model.gamma=1; validation/kid 4" in lines[2]
    assert "leads by 2, no more than the spread over seeds (2)" in lines[3]
    assert "cannot be told apart" in lines[3]
    assert lines[4].startswith("left out     job 3: copies training images")
    best = f"{sweep}/2/seed_1/vae_gan_model_best.pth"
    assert lines[5] == f"the model    {best} (seed 1, the best of 2)"
    assert shlex.split(lines[6])[2:] == [
        "python",
        "-m",
        "vaegan_pl.evaluate",
        f'weights="{best}"',
        "data=mri",
        "data.root=/my images",
    ]
    assert shlex.split(lines[7])[2:] == ["python", "-m", "vaegan_pl.sample", f'weights="{best}"']
    assert len(lines) == 8


def test_the_lead_is_compared_with_the_largest_spread_of_the_first_two(tmp_path: Path) -> None:
    make(tmp_path, 0, [1.0, 1.5])
    make(tmp_path, 1, [3.0, 4.0])
    make(tmp_path, 2, [9.0, 99.0])
    lead = ranked(tmp_path).lead
    assert lead is not None
    assert (lead.gap, lead.spread, lead.is_clear) == (2.25, 1.0, True)
    assert "more than the spread over seeds (1)" in verdict.lead(ranked(tmp_path))


def test_one_seed_says_nothing_about_chance(tmp_path: Path) -> None:
    make(tmp_path, 0, [1.0])
    assert ranked(tmp_path).lead is None
    assert verdict.lead(ranked(tmp_path)) == ""
    make(tmp_path, 1, [3.0])
    lead = ranked(tmp_path).lead
    assert lead is not None
    assert (lead.gap, lead.spread, lead.is_clear) == (2.0, None, False)
    assert "sweep.seeds=3" in verdict.lead(ranked(tmp_path))


def test_without_a_winner_the_reasons_are_counted(tmp_path: Path) -> None:
    make(tmp_path, 0, [], state="failed")
    make(tmp_path, 1, [], state="failed")
    make(tmp_path, 2, [1.0], copies="FAIL")
    (line,) = said(tmp_path)
    assert line.startswith("no winner    none of 3 jobs can be ranked")
    assert "1 copied training images" in line
    assert "2 failed" in line
    make(tmp_path, 3, [], state="stopped")
    (line,) = said(tmp_path)
    assert line.startswith("none so far")
    assert "1 stopped" in line


def test_a_sweep_that_is_not_over_has_no_winner_yet(tmp_path: Path) -> None:
    make(tmp_path, 0, [1.0])
    assert said(tmp_path)[0].startswith("winner")
    Plan([], BY_KID, planned=2).write(tmp_path)
    assert said(tmp_path)[0].startswith("best so far")


def test_ranked_by_another_metric_the_last_model_is_named_as_such(tmp_path: Path) -> None:
    make(tmp_path, 0, [20.0, 22.0], objective=BY_PSNR)
    make(tmp_path, 1, [24.0, 23.0], objective=BY_PSNR)
    (line,) = (line for line in said(tmp_path) if line.startswith("the model"))
    assert str(tmp_path / "1/seed_0/vae_gan_model.pth") in line
    assert "last epoch" in line


def test_without_a_model_file_the_command_that_trains_is_given(tmp_path: Path) -> None:
    make(tmp_path, 0, [1.0], files=())
    secret = tmp_path / "secret"
    secret.touch()
    (tmp_path / "0/seed_0/vae_gan_model.pth").symlink_to(secret)
    assert said(tmp_path)[-1].endswith("to train it again: python -m vaegan_pl.train model.gamma=0 seed=0")


def test_data_that_no_option_names_is_the_default(tmp_path: Path) -> None:
    assert data_options(Job(tmp_path, ["model.gamma=1", "data.per_class.Training=8"], BY_KID)) == [
        "data=phantom",
        "data.per_class.Training=8",
    ]


def test_the_pareto_front_is_what_no_other_beats_in_both() -> None:
    chance = random.Random(0)
    for _ in range(50):
        places = {str(i): (chance.randrange(6), chance.randrange(6)) for i in range(12)}
        beaten = {
            name
            for name, (kid, psnr) in places.items()
            for other in places.values()
            if other != (kid, psnr) and other[0] <= kid and other[1] >= psnr
        }
        front = pareto_front(places)
        assert {places[name] for name in front} == {places[name] for name in places if name not in beaten}
        assert [places[name][0] for name in front] == sorted(places[name][0] for name in front)
