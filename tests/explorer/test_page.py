"""The page in a real browser: headless Chromium, by its driver."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen
from zipfile import ZipFile

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from PIL import Image

from tests.conftest import CLASSES, SMALL, networks_with, save_model
from vaegan_pl.cli.commands import CONFIG_DIRECTORY
from vaegan_pl.explorer.studio import Studio
from vaegan_pl.explorer.trained import TrainingImages
from vaegan_pl.model import weights
from vaegan_pl.report.provenance import sha256

pytest.importorskip("gradio")
webdriver = pytest.importorskip("selenium.webdriver")

from selenium.webdriver.common.by import By  # noqa: E402
from selenium.webdriver.common.keys import Keys  # noqa: E402

OPTIONS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
Open = Callable[..., Any]


@dataclass(frozen=True)
class Served:
    """A page of two models that is there for all tests.

    Attributes:
        url: its address.
        folder: holds `run`, a training run, and `b`, a model alone; and the image `x.png`.
        studio: the run's model.
        process: the server's.
    """

    url: str
    folder: Path
    studio: Studio
    process: int


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    if _browser() is None:
        pytest.skip("no Chromium with its driver (packages chromium and chromium-driver)")
    folder = tmp_path_factory.mktemp("served")
    python = [sys.executable, "-m"]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), "GRADIO_TEMP_DIR": str(folder / "made")}
    few = ["data.per_class.Training=20", "data.per_class.Testing=20", "trainer.max_epochs=1", "logger=csv"]
    command = [
        *python,
        "vaegan_pl.train",
        *(option for option in SMALL if not option.startswith("~callbacks")),
        *few,
        "hydra.run.dir=run",
    ]
    subprocess.run(command, cwd=folder, env=environment, check=True, capture_output=True)
    (folder / "b").mkdir()
    (folder / "made").mkdir()
    save_model(folder / "b" / "vae_gan_model.pth", networks_with(norm="group"))
    pixels = np.random.default_rng(0).integers(0, 256, (40, 40), dtype=np.uint8)
    Image.fromarray(pixels).save(folder / "x.png")
    options = ["weights=[run/vae_gan_model.pth,b/vae_gan_model.pth]", "open=false", "accelerator=cpu"]
    with (folder / "log").open("w") as log:
        command = [*python, "vaegan_pl.explore", *options]
        process = subprocess.Popen(command, cwd=folder, env=environment, stdout=log, stderr=log)
    end, found = time.monotonic() + 120, None
    while found is None:
        assert process.poll() is None, (folder / "log").read_text()
        assert time.monotonic() < end
        time.sleep(0.1)
        found = re.search(r"open (http://127\.0\.0\.1:\d+/) in a browser", (folder / "log").read_text())
    path = folder / "run" / "vae_gan_model.pth"
    studio = Studio("run", path, sha256(path), weights.load(path))
    yield Served(found[1], folder, studio, process.pid)
    left_open = Visitor(found[1], folder)
    assert list((folder / "made").iterdir())
    process.send_signal(signal.SIGINT)
    assert process.wait(30) == 0
    left_open.driver.quit()
    assert "Traceback" not in (folder / "log").read_text()
    assert list((folder / "made").iterdir()) == []


def _browser() -> tuple[str, str] | None:
    browser = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    driver = shutil.which("chromedriver")
    return None if browser is None or driver is None else (browser, driver)


class Visitor:
    """One browser on the page."""

    def __init__(self, url: str, downloads: Path, width: int = 1280) -> None:
        found = _browser()
        assert found is not None
        browser, driver = found
        options = webdriver.ChromeOptions()
        options.binary_location = browser
        for argument in (*OPTIONS, f"--window-size={width},1000"):
            options.add_argument(argument)
        options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
        self.driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
        settings = {"width": width, "height": 1000, "deviceScaleFactor": 1, "mobile": False}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", settings)
        self.driver.execute_cdp_cmd(
            "Browser.setDownloadBehavior", {"behavior": "allow", "downloadPath": str(downloads)}
        )
        self.downloads = downloads
        self.driver.get(url)
        self.wait(lambda: len(self.sources("#samples")) == 16)

    def wait(self, condition: Callable[[], object], seconds: float = 60) -> Any:
        end = time.monotonic() + seconds
        while True:
            try:
                found = condition()
            except webdriver_errors() as error:
                found, reason = None, error
            else:
                reason = None
            if found:
                return found
            assert time.monotonic() < end, f"nothing came: {reason}"
            time.sleep(0.05)

    def all(self, css: str) -> list[Any]:
        return list(self.driver.find_elements(By.CSS_SELECTOR, css))

    def one(self, css: str) -> Any:
        return self.wait(lambda: [each for each in self.all(css) if each.is_displayed() or "file" in css])[0]

    def sources(self, css: str) -> list[str]:
        return [image.get_attribute("src") for image in self.all(f"{css} img")]

    def picture(self, css: str) -> np.ndarray:
        """What an image shows, as the browser has it."""
        return np.asarray(Image.open(BytesIO(self.fetch(self.wait(lambda: self.sources(css))[0]))).convert("L"))

    def fetch(self, url: str) -> bytes:
        script = (
            "const done = arguments[1]; fetch(arguments[0]).then(r => r.arrayBuffer())"
            ".then(b => done(Array.from(new Uint8Array(b))))"
        )
        return bytes(self.driver.execute_async_script(script, url))

    def tab(self, name: str) -> None:
        """Go there; on a narrow screen the last tabs are in a menu."""
        time.sleep(0.3)
        if not [tab for tab in self.all("button[role=tab]") if tab.is_displayed() and tab.text.strip() == name]:
            self.one(".overflow-menu > button").click()
            self.press(".overflow-dropdown button", name)
        else:
            self.press("button[role=tab]", name)

    def press(self, css: str, name: str) -> None:
        def button() -> list[Any]:
            return [
                each for each in self.all(css) if each.is_displayed() and each.text.partition("\n")[0].strip() == name
            ]

        self.driver.execute_script("arguments[0].scrollIntoView({block: 'center'})", self.wait(button)[0])
        self.wait(button)[0].click()

    def choose(self, label: str, value: str) -> None:
        """In a list, by keyboard alone."""
        field = self.one(f"input[aria-label='{label}']")
        field.click()
        field.send_keys(Keys.CONTROL, "a")
        field.send_keys(value, Keys.ENTER)

    def downloaded(self, pattern: str) -> Path:
        return Path(self.wait(lambda: [p for p in self.downloads.glob(pattern) if not p.name.endswith("download")])[0])

    def quit(self) -> None:
        """Nothing left this machine, and nothing was complained of."""
        complaints = [entry["message"] for entry in self.driver.get_log("browser") if entry["level"] == "SEVERE"]
        sent = [json.loads(entry["message"])["message"] for entry in self.driver.get_log("performance")]
        urls = [each["params"]["request"]["url"] for each in sent if each["method"] == "Network.requestWillBeSent"]
        self.driver.quit()
        assert not complaints
        assert urls
        assert not [url for url in urls if not re.match(r"(https?|ws)://127\.0\.0\.1[:/]|data:|blob:", url)]


def webdriver_errors() -> Any:
    from selenium.common.exceptions import WebDriverException

    return WebDriverException


@pytest.fixture
def visit(served: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Open]:
    monkeypatch.chdir(tmp_path)
    visitors: list[Visitor] = []

    def enter(width: int = 1280) -> Visitor:
        folder = tmp_path / f"downloads{len(visitors)}"
        folder.mkdir()
        visitors.append(Visitor(served.url, folder, width))
        return visitors[-1]

    yield enter
    for visitor in visitors:
        visitor.quit()


def tiles(visitor: Visitor) -> list[str]:
    return [image.get_attribute("alt") for image in visitor.all("#samples img")]


def shows(picture: np.ndarray, image: torch.Tensor, times: int = 4) -> bool:
    """Whether a picture of 128 pixels is an image with every pixel several times as large."""
    expected = ((image[0] + 1) * 127.5).numpy().repeat(times, 0).repeat(times, 1)
    return picture.shape == expected.shape and bool(np.abs(picture - expected).max() < 0.6)


def test_samples_are_those_of_the_model_and_follow_the_class(visit: Open, served: Served) -> None:
    visitor = visit()
    assert "Synthetic images. Not for diagnosis." in visitor.one(".banner").text
    assert "trained on PHANTOMS (drawings, not MRI)" in visitor.one(".banner.drawings").text
    assert tiles(visitor) == [f"{i}: any class, seed 0" for i in range(1, 17)]
    assert shows(visitor.picture("#samples"), served.studio.draw(None, 16, 0, 1.0).images[0])
    visitor.choose("Class", "notumor")
    visitor.wait(lambda: tiles(visitor)[:1] == ["1: notumor, seed 0"])
    assert shows(visitor.picture("#samples"), served.studio.draw("notumor", 16, 0, 1.0).images[0])


def test_an_image_is_reconstructed_edited_by_keyboard_and_put_back(visit: Open, served: Served) -> None:
    visitor, studio = visit(), served.studio
    visitor.tab("Edit")
    visitor.one("#upload input[type=file]").send_keys(str(served.folder / "x.png"))
    before = visitor.picture("#before")
    point = studio.encoded(served.folder / "x.png", None)
    assert shows(before, studio.decoded(point)[0])
    slider = visitor.one("input[type=range][aria-label*='More notumor']")
    slider.send_keys(*[Keys.ARROW_RIGHT] * 20)  # by 0.05 each
    moved = studio.decoded(studio.moved(point, {"notumor": 1.0}, [0] * 6))[0]
    visitor.wait(lambda: shows(visitor.picture("#after"), moved))
    visitor.press("button", "Reset")
    visitor.wait(lambda: np.array_equal(visitor.picture("#after"), before))


def test_a_held_out_image_can_be_taken(visit: Open, served: Served) -> None:
    visitor = visit()
    visitor.tab("Edit")
    visitor.press("button", "Use a held-out image")
    assert visitor.picture("#original").shape == (128, 128)


def test_a_way_between_an_image_and_a_sample_is_a_strip_and_an_animation(visit: Open, served: Served) -> None:
    visitor = visit()
    visitor.tab("Interpolate")
    visitor.one("#from input[type=file]").send_keys(str(served.folder / "x.png"))
    visitor.wait(lambda: "x" in visitor.one("#from").text)
    visitor.press("button", "Interpolate between them")
    assert visitor.picture("#strip").shape[1] == 2 * (9 * 34 + 2)
    moving = Image.open(BytesIO(visitor.fetch(visitor.wait(lambda: visitor.sources("#animation"))[0])))
    assert moving.format == "GIF"
    assert getattr(moving, "n_frames", 1) > 10


def test_what_was_drawn_can_be_taken_away(visit: Open) -> None:
    visitor = visit()
    tile = Image.open(BytesIO(visitor.fetch(visitor.sources("#samples")[0])))
    assert tile.info["Description"] == "synthetic; trained on PHANTOMS (drawings, not MRI)"
    visitor.press("#sheet, #sheet button, button#sheet", "Download as one PNG")
    with Image.open(visitor.downloaded("any_seed_0*.png")) as sheet:
        assert sheet.info["Description"] == "synthetic; trained on PHANTOMS (drawings, not MRI)"
    visitor.press("button", "Class folders to download")
    visitor.press("button", "Make class folders")
    visitor.press("#folders, #folders button, button#folders", "Download ZIP")
    with ZipFile(visitor.downloaded("synthetic_seed_0*.zip")) as file:
        assert sum(name.endswith(".png") for name in file.namelist()) == 4 * 50
        assert json.loads(file.read("provenance.json"))["images"] == dict.fromkeys(CLASSES, 50)


def test_the_nearest_training_images_are_shown_with_the_copy_score(visit: Open, served: Served) -> None:
    visitor = visit()
    visitor.tab("Inspect")
    visitor.press("button", "Find the nearest training images")
    verdict = visitor.wait(lambda: visitor.one("#verdict textarea, #verdict input").get_attribute("value"))
    with initialize_config_dir(str(CONFIG_DIRECTORY), version_base="1.3"):
        data = ["data.image_size=32", "data.per_class.Training=20", "data.per_class.Testing=20"]
        config = compose("train", [*data, f"output_root={served.folder}/outputs"])
    trained = TrainingImages.of(instantiate(config.data, _convert_="all").collection, torch.device("cpu"))
    nearest = trained.nearest(served.studio.draw(None, 16, 0, 1.0).images[0])
    copies = "counts as a copy" if trained.is_copy(nearest[0]) else "not a copy"
    assert verdict.startswith(f"{nearest[0].correlation:.3f}: {copies} (above {trained.calibration.threshold:.3f}")
    captions = [image.get_attribute("alt") for image in visitor.all("#nearest img")]
    assert captions[0] == "sample 1"
    visitor.press("button", "The run")
    assert "Model card" in visitor.one("#card").text
    assert len(visitor.sources("#figures")) == 2
    assert [caption.rpartition(": ")[2] for caption in captions[1:]] == [one.name for one in nearest]


def broken_png() -> bytes:
    buffer = BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64), dtype=np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()[:1500]


def deflated_dicom() -> bytes:
    """A slice in a file that is small and would be large."""
    from pydicom.dataset import FileDataset, FileMetaDataset
    from pydicom.uid import DeflatedExplicitVRLittleEndian, MRImageStorage, generate_uid

    meta = FileMetaDataset()
    meta.TransferSyntaxUID, meta.MediaStorageSOPClassUID = DeflatedExplicitVRLittleEndian, MRImageStorage
    meta.MediaStorageSOPInstanceUID = generate_uid()
    dataset = FileDataset("x", {}, file_meta=meta, preamble=bytes(128))
    dataset.SOPClassUID, dataset.SOPInstanceUID = MRImageStorage, meta.MediaStorageSOPInstanceUID
    dataset.Rows, dataset.Columns, dataset.ImageComments = 8, 8, "x" * 10_000
    buffer = BytesIO()
    dataset.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def huge_png() -> bytes:
    buffer = BytesIO()
    Image.new("1", (20_000, 20_000)).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("truncated.png", broken_png, "truncated.png: cannot be read"),
        ("huge.png", huge_png, "huge.png: cannot be read"),
        ("program.png", lambda: b"\x7fELF" + bytes(2000), "program.png: cannot be read"),
        ("deflated.dcm", deflated_dicom, "deflated.dcm: cannot be read"),
        ("drawing.svg", lambda: b"<svg xmlns='http://www.w3.org/2000/svg'/>", "Invalid file type"),
    ],
)
def test_broken_uploads_are_refused_and_the_page_lives_on(
    visit: Open, name: str, content: Callable[[], bytes], message: str
) -> None:
    Path(name).write_bytes(content())
    visitor = visit()
    visitor.tab("Edit")
    visitor.one("#upload input[type=file]").send_keys(str(Path(name).resolve()))
    visitor.wait(lambda: message in visitor.driver.find_element(By.TAG_NAME, "body").text)
    visitor.press("button", "Use this sample")
    assert visitor.picture("#before").shape == (128, 128)


def test_two_visitors_do_not_meet(visit: Open, served: Served) -> None:
    first, second, studio = visit(), visit(), served.studio
    first.tab("Edit")
    second.tab("Edit")
    first.one("#upload input[type=file]").send_keys(str(served.folder / "x.png"))
    second.press("button", "Use this sample")
    sample = studio.point(studio.draw(None, 16, 0, 1.0), 0)
    assert shows(second.picture("#before"), studio.decoded(sample)[0])
    other = first.picture("#before")
    second.one("input[type=range][aria-label*='Direction 1']").send_keys(*[Keys.ARROW_RIGHT] * 10)  # by 0.1 each
    moved = studio.decoded(studio.moved(sample, {}, [1.0]))[0]
    second.wait(lambda: shows(second.picture("#after"), moved))
    assert np.array_equal(first.picture("#after"), other)


def test_models_are_compared_and_exchanged(visit: Open, served: Served) -> None:
    names = ["run/vae_gan_model.pth", "b/vae_gan_model.pth"]
    visitor = visit()
    visitor.tab("Compare")
    visitor.press("button", "Compare the models")
    visitor.wait(lambda: [image.get_attribute("alt") for image in visitor.all("#compared img")] == names)
    visitor.tab("Generate")
    visitor.choose("Model", names[1])
    path = served.folder / names[1]
    other = Studio("b", path, sha256(path), weights.load(path))
    samples = other.draw(None, 16, 0, 1.0)
    visitor.wait(lambda: shows(visitor.picture("#samples"), samples.images[0], 8))
    assert names[1] in visitor.one(".banner").text
    visitor.tab("Inspect")
    visitor.press("button", "The run")
    visitor.wait(lambda: "There is no model card" in visitor.one("#card").text)
    assert visitor.sources("#figures") == []
    visitor.press("button", "Find the nearest training images")
    body = visitor.driver.find_element(By.TAG_NAME, "body")
    visitor.wait(lambda: "config.yaml: is missing, so the model's training images are not known" in body.text)
    visitor.tab("Edit")
    visitor.press("button", "Use this sample")
    assert shows(visitor.picture("#before"), samples.images[0], 8)
    visitor.one("input[type=range][aria-label*='More b']").send_keys(*[Keys.ARROW_RIGHT] * 10)  # by 0.05 each
    moved = other.decoded(other.moved(other.point(samples, 0), {"b": 0.5}, [0] * 6))[0]
    visitor.wait(lambda: shows(visitor.picture("#after"), moved, 8))
    assert "Direction 6" not in body.text


@pytest.mark.slow
def test_two_hundred_requests_leave_no_memory_behind(served: Served) -> None:
    """As the page makes them, after fifty to warm up; each draws sixteen other images."""

    def draw(seed: int) -> None:
        session = f"test{seed % 5}"
        data = ["run/vae_gan_model.pth", "any class", seed, 16, 1.0, "sharp pixels"]
        body = json.dumps({"data": data, "fn_index": index, "session_hash": session}).encode()
        headers = {"Content-Type": "application/json"}
        urlopen(Request(f"{served.url}gradio_api/queue/join", body, headers), timeout=30).close()
        with urlopen(f"{served.url}gradio_api/queue/data?session_hash={session}", timeout=30) as events:
            for line in events:
                if b"process_completed" in line:
                    assert json.loads(line.removeprefix(b"data: "))["success"]
                    return
        raise AssertionError("the request was not answered")

    def memory() -> int:
        """In bytes, in RAM."""
        return int(Path(f"/proc/{served.process}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    with urlopen(f"{served.url}config", timeout=30) as answer:
        functions = json.load(answer)["dependencies"]
    index = next(f["id"] for f in functions if len(f["inputs"]) == 6 and len(f["outputs"]) == 3)
    for seed in range(50):
        draw(seed)
    before = memory()
    for seed in range(50, 250):
        draw(seed)
    assert memory() - before < 20e6


@pytest.mark.parametrize("width", [360, 768, 1920])
def test_it_fits_and_everything_has_a_name(visit: Open, width: int) -> None:
    visitor = visit(width)
    for tab in ("Generate", "Edit", "Interpolate", "Inspect", "Compare"):
        if tab != "Generate":
            visitor.tab(tab)
        time.sleep(0.3)
        visitor.driver.save_screenshot(f"{tab}_{width}.png")
        assert visitor.driver.execute_script("return document.documentElement.scrollWidth") <= width
        nameless = visitor.driver.execute_script(
            "return [...document.querySelectorAll('input, textarea, button, select')].filter(e => e.offsetParent"
            " && !e.labels?.length && !e.closest('label') && !e.ariaLabel && !e.title && !e.textContent.trim()"
            " && e.type !== 'file').map(e => e.outerHTML)"
        )
        assert nameless == []
        assert visitor.driver.execute_script("return [...document.images].filter(i => !i.alt).length") == 0
