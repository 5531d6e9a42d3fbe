"""Names that were chosen to do harm, in every page: each must be there as text, and do nothing.

Names of classes, folders, files, models, jobs, options and metrics, and what a model file or a card says, in a browser.
"""

import base64
import csv
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import unicodedata
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from pathlib import Path
from threading import Thread

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.core.override_parser.types import Quote, QuotedString
from hydra.utils import instantiate
from matplotlib.figure import Figure
from omegaconf import DictConfig
from PIL import Image

from tests.conftest import networks_with
from tests.hostile import NAMES
from vaegan_pl.cli.commands import CONFIG_DIRECTORY
from vaegan_pl.cli.evaluate import evaluate
from vaegan_pl.cli.inspect_data import inspect_data
from vaegan_pl.evaluation import evaluation, reference, two_sample
from vaegan_pl.model import weights
from vaegan_pl.model.mixtures import Mixture
from vaegan_pl.report import data_report, model_card
from vaegan_pl.report.page import Section, Table, render
from vaegan_pl.storage.files import printable
from vaegan_pl.sweeps.bookkeeping import rank, write_report
from vaegan_pl.sweeps.jobs import Job, Objective, Run, in_directory

pytest.importorskip("gradio")
pytest.importorskip("selenium.webdriver")

from selenium.common.exceptions import UnexpectedAlertPresentException
from selenium.webdriver.common.keys import Keys

from tests.explorer.test_page import Visitor, _browser
from vaegan_pl.explorer.page import ANY

CAFE = os.fsdecode(b"caf\xe9")
"""A name that is no UTF-8."""

TURNED = "\u202egnp.exe"
"""Shown as `exe.png` where the first character is obeyed, which turns what follows."""

DATA = [
    "data=mri",
    "data.image_size=16",
    "data.classes=null",
    "data.max_unreadable=1",
    "data.validation_fraction=0.2",
    "data.test_fraction=0.2",
]
JOSE = ("José", unicodedata.normalize("NFD", "José"))


@dataclass
class Trap:
    """A server on this machine that nobody must ask for anything.

    Attributes:
        port: where it listens.
        asked: what it was asked for.
    """

    port: int = 0
    asked: list[str] = field(default_factory=list)

    @property
    def names(self) -> list[str]:
        """Names without a slash, which can be those of folders."""
        here = rf"http:\\127.0.0.1:{self.port}"
        return [
            *(name for name in NAMES if "/" not in name),
            f"<img src={here} onerror=alert(1)>",
            f"![x]({here})",
            "[x](javascript:alert(1))",
            f"<iframe src={here}>",
            f"<meta http-equiv=refresh content=0;url={here}>",
            f"<base href={here}>",
            "<style>*{display:none}",
            "<svg onload=alert(1)>",
            "$$\\frac$$ `a` **b** _c_ &lt; {{value}} ${1}",
            "a & b ' \" c | 50% #1?",
            "_first in a legend_",
            "all",
            "x" * 200,
        ]

    @property
    def texts(self) -> list[str]:
        """Texts that may hold anything."""
        here = f"http://127.0.0.1:{self.port}"
        return [
            *self.names,
            *NAMES,
            f"<script src={here}/s></script>",
            f"<img src='{here}/i' onerror='alert(1)'>",
            f"![x]({here}/m.png) <{here}/a> {here}/b",
            f"<link rel=stylesheet href={here}/l>",
            f"<form action={here}/f><button>x</button></form>",
            "<div style='position:fixed;inset:0'>x</div>",
        ]


@pytest.fixture(scope="module")
def trap() -> Iterator[Trap]:
    found = Trap()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            found.asked.append(self.path)
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as listener:
        found.port = listener.server_address[1]
        Thread(target=listener.serve_forever, daemon=True).start()
        yield found
        listener.shutdown()


@dataclass(frozen=True)
class World:
    """A folder where all names are hostile.

    Attributes:
        folder: holds everything, the report `data`, that on both models, `found`, and the sweep.
        root: the images.
        classes: names of their classes, as they are to be shown.
        models: two models of them, one of them conditional, and one whose card and caption somebody else wrote.
        caption: of the last one.
        sweep: the sweep.
    """

    folder: Path
    root: Path
    classes: list[str]
    models: list[Path]
    caption: str
    sweep: Path

    def config(self, name: str, *options: str) -> DictConfig:
        with initialize_config_dir(str(CONFIG_DIRECTORY), version_base="1.3"):
            config = compose(name, [*DATA, *options])
        config.data.root, config.data.cache = str(self.root), str(self.folder / "cache")
        return config


def in_order(classes: list[str]) -> list[str]:
    """As they are numbered: by the names of their folders, not by what is shown of them."""
    return sorted(classes, key=lambda name: name.replace(printable(TURNED), TURNED).lower())


def draw_images(root: Path, names: list[str]) -> list[str]:
    """Six images of each class, more of the first two; gives the classes as they are to be shown."""
    random = np.random.default_rng(0)

    def image() -> Image.Image:
        return Image.fromarray(random.integers(0, 256, (20, 20), dtype=np.uint8))

    called = [CAFE + name for name in ("{}.png", "{}<i>$x$ &amp;.png", "{}\u202e.png", "{}" + "y" * 240 + ".png")]
    pairs = [*((name, name) for name in [*names, CAFE, TURNED]), JOSE]
    for place, pair in enumerate(pairs):
        for split, name in zip(("Training", "Testing"), pair, strict=True):
            (root / split / name).mkdir(parents=True)
            for i in range(8 if place < 2 else 3):
                image().save(root / split / name / called[i % 4].format(i))
    training = root / "Training"
    copy, conflict = image(), image()
    copy.save(training / names[0] / "<b>copy of itself.png")
    copy.save(training / names[0] / f"{TURNED}.png")
    conflict.save(training / names[0] / '"><script>alert(1)<.png')
    conflict.save(training / CAFE / (CAFE + "<u>.png"))
    (training / names[0] / "<s>unreadable.png").write_bytes(b"nothing")
    (training / names[1] / "<em onclick=alert(1)>").touch()
    return [printable(unicodedata.normalize("NFC", first)) for first, _ in pairs]


def save_models(folder: Path, images: DictConfig, trap: Trap, caption: str) -> list[Path]:
    """Of the images one, and a conditional one; and one of other images, with a card and words of somebody else."""
    data = instantiate(images, _convert_="all")
    trained = data.source
    classes = data.source.classes
    mixtures = {
        name: Mixture(torch.ones(1), torch.full((1, 5), i % 3 - 1.0), 0.1 * torch.eye(5)[None])
        for i, name in enumerate(classes)
    }
    size = {"aspect_ratio": "pad", "white": 65535, "grey_range": "fixed"}
    paths = [folder / name / "vae_gan_model.pth" for name in (trap.names[5], f"$\\frac$ {TURNED}{CAFE}", f"{CAFE} <b>")]
    hyper = {"model": "VAE/GAN", "epochs": 1, "<b>*a*": trap.texts[-1]}
    weights.save(paths[0], networks_with(norm="group").eval(), size, trained, hyper, mixtures)
    conditional = networks_with(norm="group", classes=len(classes)).eval()
    weights.save(paths[1], conditional, size, trained, hyper)
    few = replace(
        trained,
        classes=classes[:3],
        counts={"train": dict.fromkeys(classes[:3], 2)},
        fingerprint="other",
        caption=caption,
    )
    own = networks_with(norm="group", classes=3).eval()
    weights.save(paths[2], own, size, few, hyper)
    return paths


def make_sweep(sweep: Path, trap: Trap) -> None:
    """Three jobs in three folders, with hostile options, values, metrics and reasons."""
    texts, metric = trap.texts, f"validation/{trap.names[5]}"
    for place in range(3):
        folder = sweep / str(place) / "seed_0"
        folder.mkdir(parents=True)
        options = [f"{text}={texts[place - i]}" for i, text in enumerate(texts[-3:])]
        value = 1.0 + place
        with (folder / "metrics.csv").open("w", newline="") as file:
            csv.writer(file).writerows([["step", metric], [9, value + 1], [19, value]])
        run = Run(0, value, 19, figures={texts[place]: 1.0, "validation/psnr": 20.0}, wandb=texts[place + 3])
        Job(
            sweep / str(place), ["data=mri", *options], Objective(metric, "minimize", 9.0), "finished", runs=[run]
        ).write()
    reason = "\n".join([*texts, TURNED])
    Job(sweep / "9", ["data=mri"], Objective(metric, "minimize", 9.0), "failed", reason=reason).write()


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, trap: Trap) -> World:
    folder = tmp_path_factory.mktemp("hostile") / "<b onclick=alert(1)>"
    root, caption = folder / trap.names[0] / trap.names[4], " ".join(trap.texts)[:1000]
    classes = draw_images(root, trap.names)
    made = World(folder, root, classes, [], caption, folder / f"{CAFE} {trap.names[4]}")
    made.models.extend(save_models(folder, made.config("evaluate").data, trap, caption))
    make_sweep(made.sweep, trap)
    return made


@pytest.fixture(scope="module")
def measured(world: World) -> Path:
    """Where the evaluation of two models is."""
    config = world.config("evaluate", "n=80", "seeds=1", "accelerator=cpu")
    config.weights, config.output = list(map(str, world.models[:2])), str(world.folder / "found")
    with pytest.MonkeyPatch.context() as patch:
        for module, name in ((reference, "STEPS"), (evaluation, "CLASSIFIER_STEPS"), (two_sample, "STEPS")):
            patch.setattr(module, name, 5)
        evaluate(config)
    return world.folder / "found"


SLIDERS = "input[type=range][aria-label*='More ']"
STRANGERS = """
const own = arguments[0], inside = document.querySelector('gradio-app') ?? document.body;
const odd = [...inside.querySelectorAll('script, iframe, form, base, meta, object, embed, link, style')];
const all = [...document.querySelectorAll('*')];
odd.push(...document.querySelectorAll('meta[http-equiv]'));
odd.push(...all.filter(e => [...e.attributes].some(a => a.name.startsWith('on'))));
odd.push(...all.filter(e => e.href && !String(e.href).startsWith(own) && !/^(blob|data):/.test(e.href)
    && e.tagName !== 'BASE' && e.tagName !== 'LINK'));
odd.push(...all.filter(e => e.src && !e.src.startsWith(own) && !/^(blob|data):/.test(e.src)));
odd.push(...all.filter(e => e.tagName !== 'DIV' && getComputedStyle(e).position === 'fixed'));
return odd.map(e => e.outerHTML.slice(0, 300));
"""


class Browser(Visitor):
    """One browser, which sees whether a name did anything."""

    def __init__(self, url: str, downloads: Path, trap: Trap) -> None:
        super().__init__(url, downloads)
        self.trap = trap
        self.page = self.url = url

    def open(self, url: str) -> None:
        """Go there, with nothing held against the page that was left."""
        self.driver.get("about:blank")
        for kind in ("browser", "performance"):
            self.driver.get_log(kind)
        self.trap.asked.clear()
        self.url = url
        self.driver.get(url)

    def text(self, css: str = "body") -> str:
        return str(self.driver.execute_script("return document.querySelector(arguments[0]).textContent", css))

    def harmless(self, title: str, names: Iterable[str] = (), css: str = "body") -> None:
        """Only text has come of names, and they are there."""
        time.sleep(0.2)
        text = self.text(css)
        assert [name for name in names if name not in text] == []
        assert (self.driver.title, self.driver.current_url) == (title, self.url)
        assert self.driver.execute_script(STRANGERS, self.url) == []
        assert TURNED[0] not in self.text()
        assert self.one("body").is_displayed()
        assert self.driver.execute_script("return document.documentElement.scrollWidth") <= 1280
        logged = self.driver.get_log("browser")
        assert [entry["message"] for entry in logged if entry["level"] == "SEVERE"] == []
        sent = [json.loads(entry["message"])["message"] for entry in self.driver.get_log("performance")]
        urls = [each["params"]["request"]["url"] for each in sent if each["method"] == "Network.requestWillBeSent"]
        assert [url for url in urls if not url.startswith((self.url, "data:", f"blob:{self.url}"))] == []
        assert self.trap.asked == []

    def pick(self, label: str, value: str) -> None:
        """In a list, exactly this."""
        box = self.one(f"input[aria-label='{label}']")
        box.click()
        box.send_keys(Keys.CONTROL, "a")
        box.send_keys(Keys.DELETE)
        self.wait(lambda: value in self.offered())
        chosen = self.all("ul[role=listbox] li")[self.offered().index(value)]
        self.driver.execute_script("arguments[0].scrollIntoView({block: 'center'})", chosen)
        chosen.click()

    def offered(self) -> list[str]:
        """By the list that is open."""
        return self.each("ul[role=listbox] li", "ariaLabel")

    def alts(self, css: str) -> list[str]:
        return self.each(f"{css} img", "alt")

    def each(self, css: str, name: str) -> list[str]:
        """A property of all such elements."""
        script = "return [...document.querySelectorAll(arguments[0])].map(e => e[arguments[1]])"
        return list(self.driver.execute_script(script, css, name))

    def told(self) -> str:
        """By messages."""
        return " ".join(self.each("[data-testid=toast-text]", "textContent"))


@pytest.fixture(scope="module")
def browser(world: World, measured: Path, trap: Trap, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """On the page of the first model and of the last, which has a card of somebody else."""
    if _browser() is None:
        pytest.skip("no Chromium with its driver (packages chromium and chromium-driver)")
    words = "\n\n".join(["# Model card: <u>", *trap.texts])
    model_card.path_for(world.models[2]).write_text(words, encoding="utf-8")
    made = tmp_path_factory.mktemp("made")
    data = [f"data.root={quoted(world.root)}", f"data.cache={quoted(world.folder / 'cache')}"]
    models = f"weights=[{quoted(world.models[0])},{quoted(world.models[2])}]"
    command = [sys.executable, "-m", "vaegan_pl.explore", *DATA, *data, models, "open=false", "accelerator=cpu"]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1]), "GRADIO_TEMP_DIR": str(made)}
    log = made.with_name("log")
    with log.open("w") as file:
        process = subprocess.Popen(command, cwd=made.parent, env=environment, stdout=file, stderr=file)
    try:
        end, found = time.monotonic() + 120, None
        while found is None:
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < end
            time.sleep(0.1)
            found = re.search(r"open (http://127\.0\.0\.1:\d+/) in a browser", log.read_text())
        visitor = Browser(found[1], tmp_path_factory.mktemp("downloads"), trap)
        yield visitor
        visitor.driver.quit()
    finally:
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 0
    assert "Traceback" not in log.read_text()


def quoted(path: Path) -> str:
    return QuotedString(str(path), Quote.double).with_quotes()


@pytest.fixture
def page(browser: Browser) -> Browser:
    """The page, opened anew."""
    browser.open(browser.page)
    browser.wait(lambda: len(browser.sources("#samples")) == 16)
    return browser


def pictures(page: str) -> list[Image.Image]:
    """Those of a page, in grey."""
    return [Image.open(BytesIO(base64.b64decode(data))).convert("L") for data in re.findall(r'base64,([^"]+)"', page)]


@pytest.mark.parametrize(
    "spring",
    [
        "",
        "<img src=HERE/i>",
        "<iframe src=HERE/i></iframe>",
        "<meta http-equiv=refresh content='0;url=HERE/m'>",
        "<base href=HERE/>",
        "<img src=data:, onerror=alert(1)>",
        "<script>document.title = 'owned'</script>",
        "<a href='javascript:alert(1)'>x</a>",
        "<style>*{display:none}</style>",
        "<p onclick=1>",
        "<p style='position:fixed'>",
        TURNED,
        "w" * 500,
    ],
)
def test_what_a_name_could_do_is_seen(browser: Browser, trap: Trap, tmp_path: Path, spring: str) -> None:
    path = tmp_path / "page.html"
    sprung = spring.replace("HERE", f"http://127.0.0.1:{trap.port}")
    path.write_text(f"<!doctype html><meta charset=utf-8><title>t</title><body><p>name</p>{sprung}", encoding="utf-8")

    def look() -> None:
        browser.open(path.as_uri())
        browser.harmless("t", ["name" if spring else "another"])

    with pytest.raises((AssertionError, UnexpectedAlertPresentException)):
        look()


def test_a_folder_of_hostile_names_is_read_and_reported(world: World, browser: Browser) -> None:
    config = world.config("inspect_data")
    config.output = str(world.folder / "data")
    inspect_data(config)
    facts = json.loads((world.folder / "data" / "data_report.json").read_text())
    assert list(facts["classes"]) == [*in_order(world.classes), "(all)"]
    assert facts["classes"]["José"]["images"] == 6
    assert facts["classes"]["all"]["images"] == 6
    assert facts["classes"]["(all)"]["images"] == 6 * len(world.classes) + 2 * 10 + 5
    page = world.folder / "data" / "data_report.html"
    files = [
        "Training/caf\\udce9/caf\\udce9<u>.png",
        "<b>copy of itself.png",
        "\\u202egnp.exe.png",
        '"><script>alert(1)<.png',
        "<s>unreadable.png",
        "<em onclick=alert(1)>",
    ]
    browser.open(page.as_uri())
    browser.harmless(f"Data report: {world.root.name}", [*world.classes, *files, str(world.root)])
    assert browser.each("tr.total td:first-child", "textContent") == ["(all)", "(all)"]
    alts = browser.alts("body")
    assert [alt for alt in alts if alt.startswith("training images of ")] == [
        f"training images of {name}" for name in in_order(world.classes)
    ]
    assert len(pictures(page.read_text())) == len(alts) == len(world.classes) + 4


def test_every_class_is_in_the_legend(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[Figure] = []
    monkeypatch.setattr(data_report, "picture", lambda figure, *_: drawn.append(figure))
    names = [*world.classes[:-1], "x" * 200]
    values = {"mean": 1.0, "histogram": [1 / 256] * 256, "dark_images": 0}
    data_report._intensities({"intensity": dict.fromkeys(names, values)})
    legend = drawn[0].axes[0].get_legend()
    assert legend is not None
    shown = [text.get_text().replace(r"\$", "$") for text in legend.get_texts()]
    expected = [name if len(name) <= 60 else f"{name[:56]} ..." for name in dict.fromkeys(names)]
    assert shown == [f"mean 1: {name}" for name in expected]


def test_hostile_models_and_classes_are_measured(world: World, measured: Path, browser: Browser) -> None:
    page = measured / "report.html"
    with Image.open(measured / "by_class.png") as sheet:
        assert sheet.width == 2 * (4 * len(world.classes) * 18 + 2)
    models = [printable(path.parent.name) for path in world.models[:2]]
    browser.open(page.as_uri())
    browser.harmless("Evaluation", [*world.classes, *models, str(world.root), str(world.models[0])])
    assert all(max(one.size) > 100 and len(one.getcolors() or []) > 2 for one in pictures(page.read_text()))
    assert len(browser.alts("body")) == 1 + 2 * 6
    assert browser.each("table th", "textContent")[4:10] == [
        f"{name}, {samples}" for name in models for samples in ("samples of N(0, I)", "samples", "ceiling")
    ]


def test_cards_say_names_as_they_are(world: World, measured: Path, browser: Browser, trap: Trap) -> None:
    """The card itself shows them so in any Markdown; on the page a card has but headings, lists, tables, bold words."""
    card = model_card.path_for(world.models[0]).read_text()
    browser.driver.get("about:blank")
    show = "document.body.innerHTML = arguments[0]; return document.body.textContent"
    text = browser.driver.execute_script(show, model_card.as_html(card))
    names = [
        *world.classes,
        f"images of {world.root.name}",
        f"<b>*a*: {trap.texts[-1]}",
        "structure: The samples have COLLAPSED",
    ]
    assert [name for name in names if name not in text] == []
    assert {*browser.each("body *", "tagName")} == {"B", "H1", "H2", "LI", "P", "TABLE", "TBODY", "TD", "TR", "UL"}
    assert len(browser.all("table tr")) == len(re.findall(r"^\| ", card, re.MULTILINE)) - 1
    marks = re.sub(r"\\.|^- \*\*[a-z]+\*\*: |^<!-- vaegan_pl .*", "", card, flags=re.MULTILINE)
    assert re.findall(r"[<&`$~*]|\]\(|://|\b_|_\b", marks) == []
    for word in ("latent_dim", "[3, 4]", "(SHA-256 of pixels and classes): "):
        assert word in card


@pytest.mark.filterwarnings("ignore:constrained_layout not applied")  # long values leave little room for the maps
def test_a_hostile_sweep_has_its_page(world: World, browser: Browser, trap: Trap) -> None:
    paths = write_report(world.sweep, rank(world.sweep, in_directory(world.sweep)), overwrite=False)
    assert [path.name for path in paths] == ["sweep.csv", "sweep.json", "sweep.png", "sweep.html"]
    page = paths[-1].read_text()
    assert len(pictures(page)) == 3  # maps, parallel coordinates, curves
    browser.open(paths[-1].as_uri())
    names = ["\\u202egnp.exe", f"validation/{trap.names[5]}", *trap.texts]
    browser.harmless(f"Sweep {printable(world.sweep.name)}", [*names, "4 jobs: 3 finished, 1 failed."])
    shown = json.loads(paths[1].read_text())["jobs"]
    assert shown[0]["command"].endswith("# without 3 options that no configuration lists")


def test_the_page_offers_and_compares_hostile_classes_and_models(world: World, page: Browser) -> None:
    first, last = (printable(path) for path in (world.models[0], world.models[2]))
    page.harmless("VAE/GAN", [f"VAE/GAN trained on images of {world.root.name}: {first}"], ".banner")
    page.one("input[aria-label='Class']").click()
    assert page.wait(page.offered) == [ANY, *in_order(world.classes)]
    page.one("input[aria-label='Class']").send_keys(Keys.ESCAPE)
    for name in world.classes[4:6]:
        page.pick("Class", name)
        page.wait(lambda name=name: page.alts("#samples")[:1] == [f"1: {name}, seed 0"])  # type: ignore[misc]
    shutil.rmtree(page.downloads)
    page.downloads.mkdir()
    page.press("#sheet, #sheet button, button#sheet", "Download as one PNG")
    with Image.open(page.downloaded("*_seed_0.png")) as sheet:
        assert sheet.info["Description"] == f"synthetic; trained on images of {world.root.name}"
    page.tab("Compare")
    page.pick("Class to compare", world.classes[4])
    page.press("button.lg", "Compare the models")
    page.wait(lambda: page.alts("#compared") == [first])
    page.wait(lambda: f"{last} has no class {world.classes[4]}" in page.told())
    page.harmless("VAE/GAN")
    page.pick("Model", last)
    page.wait(lambda: page.text(".banner").endswith(f"VAE/GAN trained on {world.caption}: {last}"))
    page.harmless("VAE/GAN")


def test_sliders_and_images_of_hostile_classes(world: World, page: Browser) -> None:
    page.tab("Edit")
    page.press("button.lg", "Use a held-out image")
    page.wait(lambda: page.sources("#original"))
    before = page.sources("#after")
    sliders = {slider.get_attribute("aria-label").partition("More ")[2]: slider for slider in page.all(SLIDERS)}
    assert [*sliders] == in_order(world.classes)
    sliders[world.classes[4]].send_keys(*[Keys.ARROW_RIGHT] * 4)
    page.wait(lambda: page.sources("#after") not in ([], before))
    page.harmless("VAE/GAN", [f"More {name}" for name in world.classes])
    page.pick("Model", printable(world.models[2]))
    Image.new("L", (20, 20)).save(page.downloads / "new.png")
    page.one("#upload input[type=file]").send_keys(str(page.downloads / "new.png"))
    page.wait(lambda: "the model is conditional; give the images' class" in page.told())
    assert f"class, {' or '.join(in_order(world.classes)[:3])}" in page.told()
    page.harmless("VAE/GAN")


def test_nearest_images_and_cards_of_hostile_names(world: World, page: Browser, trap: Trap) -> None:
    page.tab("Inspect")
    page.press("button.lg", "Find the nearest training images")
    page.wait(lambda: len(page.alts("#nearest")) == 7)
    files = [printable(path.relative_to(world.root)) for path in world.root.glob("*/*/*")]
    assert all(alt.partition(": ")[2] in files for alt in page.alts("#nearest")[1:])
    page.press("button.label-wrap", "The run")
    page.wait(lambda: "Model card" in page.one("#card").text)
    page.harmless("VAE/GAN", [*world.classes, "Intended use", "one data set of single slices"], "#card")
    assert page.driver.execute_script(
        "const c = document.querySelector('#card'); return c.scrollWidth <= c.clientWidth"
    )
    page.pick("Model", printable(world.models[2]))
    page.wait(lambda: "Model card: <u>" in page.one("#card").text)
    marked = [text.replace(r"\\", "\\").replace("**b**", "b") for text in trap.texts]
    page.harmless("VAE/GAN", marked, "#card")
    assert {*page.each("#card .prose *", "tagName")} == {"B", "H1", "P"}
    page.press("button.lg", "Find the nearest training images")
    page.wait(lambda: "was trained on other images" in page.told())
    assert f"weights={printable(world.models[2])}: " in page.told()
    assert world.caption in page.told()
    page.harmless("VAE/GAN")


def test_a_page_shows_every_text_of_its_own_literally(browser: Browser, trap: Trap, tmp_path: Path) -> None:
    """In its title, headings, links to them, paragraphs and tables."""
    texts = [*trap.texts, "line\nline", "\x1b[31m\x00", CAFE, TURNED]
    sections = [Section(text, [text], [Table([text], [[text]])]) for text in texts]
    expected = ["\n".join(map(printable, text.split("\n"))) for text in texts]
    for place in (texts.index(NAMES[3]), texts.index(CAFE)):
        path = tmp_path / f"{place}.html"
        path.write_text(render(texts[place], [texts[place]], sections), encoding="utf-8")
        browser.open(path.as_uri())
        browser.harmless(expected[place], expected)
        for tag in ("h2", "td", "nav a"):
            assert browser.each(tag, "textContent") == expected
