"""The page of a sweep, from records made by hand."""

import csv
import json
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import pytest
from PIL import Image

from vaegan_pl.jobs import Job, Objective, Run, in_directory
from vaegan_pl.report import sweep_report

KID = "validation/kid"


def make(sweep: Path, number: int, options: list[str], values: list[float | None], **more: object) -> None:
    """A job with a run for each value, whose curve falls to it in the second of three epochs."""
    directory = sweep / str(number)
    runs = []
    for seed, value in enumerate(values):
        where = directory / f"seed_{seed}"
        (where / "images").mkdir(parents=True)
        if value is not None:
            rows = [f"9,{value + 2}", f"19,{value}", f"29,{value + 1}"]
            (where / "metrics.csv").write_text("\n".join([f"step,{KID}", *rows, ""]))
            Image.new("L", (40, 40), 100).save(where / "images" / "samples_epoch_0002.png")
        runs.append(Run(seed, where.name, value, 19))
    Job(directory, ["data=mri", *options], Objective(KID, "minimize", 1e6), runs=runs, **more).write()  # type: ignore[arg-type]


@pytest.fixture
def sweep(tmp_path: Path) -> Path:
    make(tmp_path, 0, ["a=1", "b=x"], [3.0, 3.4], state="finished")
    make(tmp_path, 1, ["a=1", "b=y"], [1.0, 1.4], state="finished")
    make(tmp_path, 2, ["a=10", "b=x"], [2.0, 2.2], state="pruned")
    make(tmp_path, 3, ["a=10", "b=y"], [None], state="failed", reason="numbers were <lost>")
    return tmp_path


def test_jobs_are_ranked_in_all_files(sweep: Path) -> None:
    paths = sweep_report.write(in_directory(sweep), sweep)
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
    assert found[0]["command"] == "python -m vaegan_pl.train data=mri a=1 b=y seed=0"
    page = paths[3].read_text()
    assert "4 jobs: 2 finished, 1 pruned, 1 failed." in page
    assert "numbers were &lt;lost&gt;" in page
    assert "The first two lie 0.9 apart, their seeds no more than 0.4." in page


def test_the_page_is_one_file_with_every_picture(sweep: Path) -> None:
    sweep_report.write(in_directory(sweep), sweep)
    found: list[dict[str, str | None]] = []

    class Images(HTMLParser):
        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            if tag in ("img", "script", "link"):
                found.append({"tag": tag, **dict(attrs)})

    Images().feed((sweep / "sweep.html").read_text())
    assert {each["tag"] for each in found} == {"img"}
    assert all(str(each["src"]).startswith("data:image/png;base64,") for each in found)
    assert len(found) == 4  # maps, parallel coordinates, curves, samples
    assert all(each["alt"] for each in found)


def test_a_sweep_under_way_or_of_failures_alone_has_a_page(sweep: Path) -> None:
    for number in range(3):
        shutil.rmtree(sweep / str(number))
    sweep_report.write(in_directory(sweep), sweep)
    page = (sweep / "sweep.html").read_text()
    assert "1 jobs: 1 failed." in page
    assert "<img" not in page
    assert not (sweep / "sweep.png").exists()


def test_a_browser_shows_the_page(sweep: Path) -> None:
    browser = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("no Chromium (package chromium)")
    sweep_report.write(in_directory(sweep), sweep)
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
