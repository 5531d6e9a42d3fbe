"""The page of a sweep, from records made by hand."""

import csv
import json
import os
import resource
import shutil
import subprocess
import time
from html.parser import HTMLParser
from pathlib import Path

import pytest
from PIL import Image

from vaegan_pl.runs import layout
from vaegan_pl.sweeps.bookkeeping import rank, write_report
from vaegan_pl.sweeps.jobs import Job, Objective, Plan, Run, in_directory

from .. import hostile

KID = "validation/kid"


def make(sweep: Path, number: int, options: list[str], values: list[float | None], **more: object) -> None:
    """A job with a run for each value, whose curve falls to it in the second of three epochs."""
    directory = sweep / str(number)
    done = []
    for seed, value in enumerate(values):
        where = directory / f"seed_{seed}"
        (where / "images").mkdir(parents=True, exist_ok=True)
        if value is not None:
            rows = [f"9,{value + 2}", f"19,{value}", f"29,{value + 1}"]
            (where / "metrics.csv").write_text("\n".join([f"step,{KID}", *rows, ""]))
            Image.new("L", (40, 40), 100).save(where / "images" / "samples_epoch_0002.png")
        figures = {"validation/psnr": 20.0 + number}
        done.append(Run(seed, value, 19, figures=figures, seconds=90.0, wandb=f"p/{number}{seed}"))
    Job(directory, ["data=mri", *options], Objective(KID, "minimize", 1e6), runs=done, **more).write()  # type: ignore[arg-type]


def report(sweep: Path) -> list[Path]:
    return write_report(sweep, rank(sweep, in_directory(sweep)), overwrite=False)


@pytest.fixture
def sweep(tmp_path: Path) -> Path:
    make(tmp_path, 0, ["model.gamma=1", "model.fakes=prior"], [3.0, 3.4], state="finished")
    make(tmp_path, 1, ["model.gamma=1", "model.fakes=both"], [1.0, 1.4], state="finished")
    make(tmp_path, 2, ["model.gamma=10", "model.fakes=prior"], [2.0, 2.2], state="pruned")
    make(tmp_path, 3, ["model.gamma=10", "model.fakes=both"], [None], state="failed", reason="numbers were <lost>")
    return tmp_path


def test_jobs_are_ranked_in_all_files(sweep: Path) -> None:
    paths = report(sweep)
    assert [path.name for path in paths] == ["sweep.csv", "sweep.json", "sweep.png", "sweep.html"]
    with paths[0].open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["rank"], row["job"], row["seed"], row[KID]) for row in rows[:3]] == [
        ("1", "1", "0", "1.0"),
        ("1", "1", "1", "1.4"),
        ("2", "2", "0", "2.0"),
    ]
    assert rows[-1]["state"] == "failed"
    found = json.loads(paths[1].read_text())["jobs"]
    assert [(job["job"], job["score"]) for job in found] == [
        ("1", pytest.approx(1.2)),
        ("2", pytest.approx(2.1)),
        ("0", pytest.approx(3.2)),
        ("3", None),
    ]
    assert found[0]["command"] == "python -m vaegan_pl.train data=mri model.gamma=1 model.fakes=both seed=0"
    page = paths[3].read_text()
    assert "4 jobs: 2 finished, 1 pruned, 1 failed." in page
    assert "numbers were &lt;lost&gt;" in page
    assert "The best job leads by 0.9, more than the spread over seeds (0.4)." in page


def test_the_tables_are_those_of_earlier_versions_byte_for_byte(sweep: Path) -> None:
    shutil.rmtree(sweep / "0")
    shutil.rmtree(sweep / "2")
    report(sweep)
    head = f"rank,job,seed,model.gamma,{KID},validation/psnr,batch,minutes,state,copies,wandb,directory"
    rows = [
        f"1,1,0,1,1.0,21.0,19,1.5,finished,,p/10,{sweep}/1/seed_0",
        f"1,1,1,1,1.4,21.0,19,1.5,finished,,p/11,{sweep}/1/seed_1",
        f"2,3,0,10,,23.0,19,1.5,failed,,p/30,{sweep}/3/seed_0",
        "",
    ]
    assert (sweep / "sweep.csv").read_bytes() == "\r\n".join([head, *rows]).encode()
    first = """  {
   "job": "1",
   "state": "finished",
   "options": {
    "model.gamma": "1"
   },
   "score": 1.2,
   "values": {
    "0": 1.0,
    "1": 1.4
   },
   "figures": {
    "0": {
     "validation/psnr": 21.0
    },
    "1": {
     "validation/psnr": 21.0
    }
   },
   "minutes": {
    "0": 1.5,
    "1": 1.5
   },
   "wandb": {
    "0": "p/10",
    "1": "p/11"
   },
   "copies": {
    "0": null,
    "1": null
   },
   "reason": null,
   "command": "python -m vaegan_pl.train data=mri model.gamma=1 model.fakes=both seed=0"
  },
"""
    text = (sweep / "sweep.json").read_text()
    assert first in text
    assert list(json.loads(text)) == [
        "made_by",
        "sweep",
        "objective",
        "planned",
        "jobs",
        "measured_by_something_else",
    ]


def test_the_page_is_one_file_with_every_picture(sweep: Path) -> None:
    report(sweep)
    found: list[dict[str, str | None]] = []

    class Images(HTMLParser):
        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            if tag in ("img", "script", "link"):
                found.append({"tag": tag, **dict(attrs)})

    Images().feed((sweep / "sweep.html").read_text())
    assert {each["tag"] for each in found} == {"img"}
    assert all(str(each["src"]).startswith("data:image/png;base64,") for each in found)
    assert len(found) == 5  # maps, parallel coordinates, trade-off, curves, samples
    assert all(each["alt"] for each in found)


def test_a_sweep_under_way_or_of_failures_alone_has_a_page(sweep: Path) -> None:
    for number in range(3):
        shutil.rmtree(sweep / str(number))
    report(sweep)
    page = (sweep / "sweep.html").read_text()
    assert "1 job: 1 failed." in page
    assert "<img" not in page
    assert not (sweep / "sweep.png").exists()


def test_a_browser_shows_the_page(sweep: Path) -> None:
    browser = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("no Chromium (package chromium)")
    report(sweep)
    picture = sweep / "page.png"
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--window-size=900,3000", f"--screenshot={picture}"]
    subprocess.run([browser, *options, (sweep / "sweep.html").as_uri()], check=True, capture_output=True, timeout=120)
    with Image.open(picture) as shown:
        colours = shown.convert("RGB").quantize(64).getcolors()
    assert colours is not None
    assert len(colours) > 20
    command = [browser, *options[:3], "--dump-dom", (sweep / "sweep.html").as_uri()]
    dom = subprocess.run(command, check=True, capture_output=True, text=True, timeout=120).stdout
    assert "All options at once" in dom


def test_the_page_says_what_is_planned_running_and_lost(sweep: Path) -> None:
    make(sweep, 4, ["model.gamma=100", "model.fakes=prior"], [None])
    make(sweep, 5, ["model.gamma=100", "model.fakes=both"], [None])
    Plan([], Objective(KID, "minimize", 1e6), planned=9).write(sweep)
    held = layout.lock(sweep / "5")
    assert held is not None
    report(sweep)
    os.close(held)
    page = (sweep / "sweep.html").read_text()
    assert "9 jobs planned: 2 finished, 1 pruned, 1 failed, 1 running, 1 lost, 3 not started." in page
    states = {job["job"]: job["state"] for job in json.loads((sweep / "sweep.json").read_text())["jobs"]}
    assert (states["4"], states["5"]) == ("lost", "running")


def test_a_command_to_paste_holds_known_options_alone(sweep: Path) -> None:
    options = [
        "model.gamma=0.5",
        "data.root=/data",
        "+callbacks.x._target_=os.system",
        "logger.wandb.entity=x",
        "$(reboot)=1",
    ]
    make(sweep, 0, options, [0.5], state="finished")
    report(sweep)
    best = json.loads((sweep / "sweep.json").read_text())["jobs"][0]
    command = "python -m vaegan_pl.train data=mri model.gamma=0.5 data.root=/data seed=0"
    assert best["command"] == f"{command}  # without 3 options that no configuration lists"


def test_pictures_and_curves_of_others_cost_nothing(sweep: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    """A picture of 30,000 pixels square, a link to a private one, and curves without end."""
    elsewhere = tmp_path_factory.mktemp("private")
    Image.new("L", (40, 40), 200).save(elsewhere / "private.png")
    png = hostile.png_bomb(30_000)
    (sweep / "0/seed_0/images/samples_epoch_0002.png").write_bytes(png)
    (sweep / "1/seed_0/images/samples_epoch_0002.png").unlink()
    (sweep / "1/seed_0/images/samples_epoch_0002.png").symlink_to(elsewhere / "private.png")
    (sweep / "2/seed_0/metrics.csv").write_text(f"step,{KID}\n" + "1,2\n" * 2**20)
    before, started = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    report(sweep)
    assert time.process_time() - started < 20
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 300 * 1024
    assert "samples of each job" not in (sweep / "sweep.html").read_text()
