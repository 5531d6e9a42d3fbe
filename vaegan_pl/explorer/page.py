"""The page: five tabs over the models, each visitor's own."""

import html
import math
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial, wraps
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import gradio as gr
from gradio.processing_utils import save_bytes_to_cache
from PIL import Image
from torch import Tensor

from vaegan_pl.data.images import SUFFIXES
from vaegan_pl.errors import UserError
from vaegan_pl.explorer.studio import DIRECTIONS, Images, Point, Studio
from vaegan_pl.explorer.trained import TrainingImages
from vaegan_pl.report import model_card, provenance
from vaegan_pl.report.latent_pictures import gif
from vaegan_pl.report.pictures import png, single

PRIOR = "any (the prior)"
SHARP, SMOOTH = "sharp pixels", "smooth (Lanczos)"
SHOWN_SIDE = 192
"""Images of fewer pixels are shown by the largest multiple of their size below."""

MOST, MOST_PER_CLASS, MOST_COMPARED = 64, 250, 16
MOST_BYTES = "20mb"
MOST_VISITORS = 64
KEPT_SECONDS = 1800
"""Pictures and downloads that were made are deleted after so long."""

ALWAYS = "Synthetic images. Not for diagnosis."
CSS = """
.banner { padding: .5em .8em; border-radius: .4em; background: #e8eef7; color: #1b2733; }
.banner.drawings { background: #7a1f1f; color: #ffffff; font-weight: 600; }
.grid-container { grid-template-columns: repeat(auto-fill, minmax(132px, 1fr)) !important; }
#compared .grid-container, #figures .grid-container { grid-template-columns: 1fr !important; }
body:not(.smooth) img { image-rendering: pixelated; }
"""
SMOOTHEN = f"(scaling) => {{ document.body.classList.toggle('smooth', scaling === '{SMOOTH}'); return scaling; }}"

Training = Callable[[Studio], TrainingImages]
Tiles = list[tuple[Image.Image, str]]
P = ParamSpec("P")
T = TypeVar("T")


@dataclass(frozen=True)
class Drawn:
    """What a visitor sees in the first tab."""

    studio: str
    label: str | None
    seed: int
    images: Images


def _told(handler: Callable[P, T]) -> Callable[P, T]:
    """The same, but mistakes are shown on the page in one message."""

    @wraps(handler)
    def tell(*arguments: P.args, **options: P.kwargs) -> T:
        try:
            return handler(*arguments, **options)
        except (UserError, OSError) as error:
            raise gr.Error(html.escape(str(error)), print_exception=False) from error

    return tell


def _whole(value: object, name: str, low: int, high: int) -> int:
    """A number that a visitor gave.

    Raises:
        UserError: if it is not whole, or out of range.
    """
    if (
        not isinstance(value, int | float)
        or not math.isfinite(value)
        or value != int(value)
        or not low <= value <= high
    ):
        raise UserError(f"{name}: give a whole number from {low} to {high}")
    return int(value)


def enlarged(image: Tensor, scaling: str) -> Image.Image:
    """One image in [-1, 1] at several times its size."""
    picture = single(image)
    times = max(1, SHOWN_SIDE // picture.width)
    resampling = Image.Resampling.LANCZOS if scaling == SMOOTH else Image.Resampling.NEAREST
    return picture.resize((times * picture.width, times * picture.height), resampling)


class Page:
    """The page.

    Args:
        studios: the models, the one to begin with first.
        training: finds the images that trained one; raises UserError where they are not at hand.
        seed: of the first samples.
    """

    def __init__(self, studios: Sequence[Studio], training: Training, seed: int) -> None:
        self.studios = {studio.name: studio for studio in studios}
        self.training = training
        self.seed = seed
        self.first = studios[0]
        self.blocks = gr.Blocks(title="VAE/GAN", analytics_enabled=False, delete_cache=(60, KEPT_SECONDS))
        with self.blocks:
            self.banner = gr.HTML(_banner(self.first))
            with gr.Row():
                names = list(self.studios)
                self.model = gr.Dropdown(names, value=names[0], label="Model", visible=len(names) > 1)
                self.scaling = gr.Radio([SHARP, SMOOTH], value=SHARP, label="Enlarge images with")
            with gr.Tab("Generate"):
                self._generate()
            with gr.Tab("Edit"):
                self._edit()
            with gr.Tab("Interpolate"):
                self._interpolate()
            with gr.Tab("Inspect"):
                self._inspect()
            if len(names) > 1:
                with gr.Tab("Compare"):
                    self._compare()
            self.scaling.change(None, self.scaling, self.scaling, js=SMOOTHEN, **_QUIET)
            self.model.change(lambda name: _banner(self.studios[name]), self.model, self.banner, **_QUIET)

    def _generate(self) -> None:
        with gr.Row():
            with gr.Column(scale=1):
                label = self._classes("Class")
                seed = gr.Number(self.seed, label="Seed", precision=0, minimum=0)
                n = gr.Slider(1, MOST, 16, step=1, label="Number of images")
                temperature = gr.Slider(0, 2, 1, step=0.05, label="Temperature", info="below 1: more alike")
                other = gr.Button("Another seed", variant="primary")
            with gr.Column(scale=3):
                gallery = gr.Gallery(label="Samples", columns=4, format="png", elem_id="samples", height="auto")
                sheet = gr.DownloadButton("Download as one PNG", elem_id="sheet")
        with gr.Accordion("Class folders to download", open=False):
            per_class = gr.Number(50, label="Images per class", precision=0, minimum=1, maximum=MOST_PER_CLASS)
            make = gr.Button("Make class folders")
            folders = gr.DownloadButton("Download ZIP", visible=False, elem_id="folders")
        self.drawn = gr.State(None)
        gr.on(
            [self.blocks.load, label.change, seed.change, n.change, temperature.change, self.scaling.change],
            self._draw,
            [self.model, label, seed, n, temperature, self.scaling],
            [gallery, sheet, self.drawn],
            trigger_mode="always_last",
            **_QUIET,
        )
        other.click(lambda: secrets.randbelow(10**6), None, seed, **_QUIET)
        make.click(self._folders, [self.model, per_class, seed, temperature], folders, api_visibility="private")
        self.samples = gallery

    @_told
    def _draw(
        self, name: str, label: str, seed: float, n: float, temperature: float, scaling: str
    ) -> tuple[Tiles, str, Drawn]:
        studio = self.studios[name]
        own, start = _class(label), _whole(seed, "Seed", 0, 2**63 - 1)
        images = studio.draw(own, _whole(n, "Number of images", 1, MOST), start, temperature)
        words = f"{own or 'Prior'}, seed {start}, temperature {temperature:g}"
        tiles = [
            (enlarged(image, scaling), f"{i}: {own or 'prior'}, seed {start}") for i, image in enumerate(images, 1)
        ]
        sheet = _file(studio.sheet(images, words), f"{own or 'prior'}_seed_{start}.png", self.blocks)
        return tiles, sheet, Drawn(name, own, start, images)

    @_told
    def _folders(self, name: str, n: float, seed: float, temperature: float) -> Any:
        start = _whole(seed, "Seed", 0, 2**63 - 1)
        content = self.studios[name].class_folders(_whole(n, "Images per class", 1, MOST_PER_CLASS), start, temperature)
        return gr.DownloadButton(value=_file(content, f"synthetic_seed_{start}.zip", self.blocks), visible=True)

    def _edit(self) -> None:
        most = max(len(studio.directed) for studio in self.studios.values())
        with gr.Row():
            with gr.Column():
                upload = _upload("Your image", "upload")
                with gr.Row():
                    label = self._classes("Class")
                    seed = gr.Number(self.seed, label="Seed", precision=0, minimum=0)
                sample = gr.Button("Take this sample")
                held_out = gr.Button("Take a held-out image")
            with gr.Column(scale=2), gr.Row():
                original, before, after = (
                    gr.Image(label=what, format="png", interactive=False, elem_id=what.lower(), alt_text=what)
                    for what in ("Original", "Before", "After")
                )
        with gr.Row():
            with gr.Column():
                towards = [gr.Slider(-2, 2, 0, step=0.05, **self._direction(self.first, i)) for i in range(most)]
            with gr.Column():
                along = [gr.Slider(-6, 6, 0, step=0.1, label=f"Direction {i + 1}") for i in range(DIRECTIONS)]
        reset = gr.Button("Reset")
        point = gr.State(None)
        sliders, shown = [*towards, *along], [original, before, after]
        taken = [point, *shown, *sliders]
        take = partial(self._take, len(sliders))
        upload.upload(take(self._uploaded), [self.model, self.scaling, upload, label], taken, api_visibility="private")
        sample.click(take(self._sampled), [self.model, self.scaling, label, seed], taken, api_visibility="private")
        held_out.click(take(self._held_out), [self.model, self.scaling, seed], taken, api_visibility="private")
        gr.on(
            [slider.change for slider in sliders],
            self._move,
            [self.model, self.scaling, point, *sliders],
            after,
            trigger_mode="always_last",
            **_QUIET,
        )
        reset.click(lambda: [0] * len(sliders), None, sliders, **_QUIET)
        self.model.change(partial(self._others, most), self.model, [*taken, upload], **_QUIET)

    def _take(self, sliders: int, find: Callable[..., Point]) -> Callable[..., list[Any]]:
        """A handler that starts from the point that `find` finds, with all sliders at rest."""

        @_told
        def take(name: str, scaling: str, *arguments: Any) -> list[Any]:
            studio = self.studios[name]
            point = find(studio, *arguments)
            image = enlarged(studio.decoded(point)[0], scaling)
            original = None if point.image is None else enlarged(point.image[0], scaling)
            return [point, original, image, image, *[0] * sliders]

        return take

    @staticmethod
    def _uploaded(studio: Studio, file: str, label: str) -> Point:
        return studio.encoded(Path(file), _class(label))

    @staticmethod
    def _sampled(studio: Studio, label: str, seed: float) -> Point:
        return studio.sampled(_class(label), _whole(seed, "Seed", 0, 2**63 - 1))

    def _held_out(self, studio: Studio, seed: float) -> Point:
        files = self.training(studio).held_out
        return studio.encoded(*files[_whole(seed, "Seed", 0, 2**63 - 1) % len(files)])

    @_told
    def _move(self, name: str, scaling: str, point: Point | None, *strengths: float) -> Image.Image | None:
        if point is None:
            return None
        studio = self.studios[name]
        towards = dict(zip(studio.directed, strengths[:-DIRECTIONS], strict=False))
        return enlarged(studio.decoded(studio.moved(point, towards, strengths[-DIRECTIONS:]))[0], scaling)

    def _others(self, most: int, name: str) -> list[Any]:
        """The tab for another model, empty."""
        studio = self.studios[name]
        towards = [gr.Slider(value=0, **self._direction(studio, i)) for i in range(most)]
        return [None, None, None, None, *towards, *[0] * DIRECTIONS, None]

    @staticmethod
    def _direction(studio: Studio, i: int) -> dict[str, Any]:
        return {
            "label": f"More {studio.directed[i]}" if i < len(studio.directed) else "-",
            "visible": i < len(studio.directed),
        }

    def _interpolate(self) -> None:
        ends: list[gr.File | gr.Dropdown | gr.Number] = []
        with gr.Row():
            for what in ("From", "To"):
                with gr.Column():
                    upload = _upload(f"{what}: your image, or the sample below", what.lower())
                    label = self._classes("Class")
                    seed = gr.Number(self.seed + len(ends) // 3, label="Seed", precision=0, minimum=0)
                    ends += [upload, label, seed]
        go = gr.Button("Show the way", variant="primary")
        strip = gr.Image(label="From left to right", format="png", interactive=False, elem_id="strip")
        moving = gr.Image(label="Animation", interactive=False, elem_id="animation", height=260)
        go.click(self._between, [self.model, *ends], [strip, moving], api_visibility="private")

    @_told
    def _between(self, name: str, *ends: Any) -> tuple[str, str]:
        studio = self.studios[name]
        start, end = (
            self._sampled(studio, label, seed) if file is None else self._uploaded(studio, file, label)
            for file, label, seed in (ends[:3], ends[3:])
        )
        tour = studio.between(start, end)
        words = provenance.words(studio.model)
        return (
            _file(png(tour.grid(), words), "interpolation.png", self.blocks),
            _file(gif(tour, words), "interpolation.gif", self.blocks),
        )

    def _inspect(self) -> None:
        gr.Markdown("Which training images is a sample of the first tab like, and is it a copy of one?")
        with gr.Row():
            number = gr.Number(1, label="Number of the sample", precision=0, minimum=1, maximum=MOST)
            find = gr.Button("Find the nearest training images", variant="primary")
        verdict = gr.Textbox(label="Copy score", interactive=False, elem_id="verdict")
        nearest = gr.Gallery(label="Nearest", columns=4, format="png", elem_id="nearest", height="auto")
        find.click(self._nearest, [self.drawn, number, self.scaling], [verdict, nearest], api_visibility="private")
        self.samples.select(_selected, None, number, **_QUIET)
        with gr.Accordion("The run", open=False):
            figures = gr.Gallery(_figures(self.first), label="Figures", columns=2, elem_id="figures")
            card = gr.Markdown(_card(self.first), elem_id="card")
        self.model.change(
            lambda name: (_figures(self.studios[name]), _card(self.studios[name])),
            self.model,
            [figures, card],
            **_QUIET,
        )

    @_told
    def _nearest(self, drawn: Drawn | None, number: float, scaling: str) -> tuple[str, Tiles]:
        if drawn is None:
            raise UserError("there is no sample yet; generate some in the first tab")
        chosen = _whole(number, "Number of the sample", 1, len(drawn.images))
        trained = self.training(self.studios[drawn.studio])
        image = drawn.images[chosen - 1]
        neighbours = trained.nearest(image)
        best, limit = neighbours[0].correlation, trained.calibration.threshold
        words = "counts as a copy" if trained.is_copy(neighbours[0]) else "no copy"
        tiles = [(enlarged(image, scaling), f"sample {chosen}")]
        for one in neighbours:
            mirrored = ", mirrored" if one.mirrored else ""
            tiles.append((enlarged(one.image, scaling), f"{one.correlation:.3f}{mirrored}: {one.name}"))
        return f"{best:.3f}: {words} (above {limit:.3f} it would count as one; 1 % of new images lie above)", tiles

    def _compare(self) -> None:
        labels = sorted({label for studio in self.studios.values() for label in studio.labels})
        with gr.Row():
            label = gr.Dropdown([PRIOR, *labels], value=PRIOR, label="Class")
            seed = gr.Number(self.seed, label="Seed", precision=0, minimum=0)
            n = gr.Slider(1, MOST_COMPARED, 8, step=1, label="Number of images")
        go = gr.Button("Compare the models", variant="primary")
        rows = gr.Gallery(label="One row of samples for each model", columns=1, format="png", elem_id="compared")
        go.click(self._side_by_side, [label, seed, n], rows, api_visibility="private")

    @_told
    def _side_by_side(self, label: str, seed: float, n: float) -> list[tuple[str, str]]:
        own, start = _class(label), _whole(seed, "Seed", 0, 2**63 - 1)
        count = _whole(n, "Number of images", 1, MOST_COMPARED)
        rows = []
        for name, studio in self.studios.items():
            if own is not None and own not in studio.labels:
                gr.Warning(html.escape(f"{name} does not know {own}"))
                continue
            sheet = studio.sheet(studio.draw(own, count, start, 1.0), f"{name}: {own or 'prior'}, seed {start}")
            rows.append((_file(sheet, "row.png", self.blocks), name))
        return rows

    def _classes(self, title: str) -> gr.Dropdown:
        """A choice of the model's classes, which follows the model."""
        chosen = gr.Dropdown([PRIOR, *self.first.labels], value=PRIOR, label=title)
        self.model.change(
            lambda name: gr.Dropdown([PRIOR, *self.studios[name].labels], value=PRIOR), self.model, chosen, **_QUIET
        )
        return chosen


_QUIET: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}


def _selected(event: gr.SelectData) -> int:
    """The number of the sample that was chosen in the first tab."""
    return int(event.index) + 1


def _class(label: str) -> str | None:
    return None if label == PRIOR else label


def _upload(title: str, name: str) -> gr.File:
    return gr.File(label=title, elem_id=name, file_types=sorted(SUFFIXES), height=150)


def _file(content: bytes, name: str, blocks: gr.Blocks) -> str:
    """A file that the page may show or hand out, deleted after `KEPT_SECONDS`."""
    return str(save_bytes_to_cache(content, name, blocks.GRADIO_CACHE))


def _banner(studio: Studio) -> str:
    kind = " drawings" if studio.drawings else ""
    words = f"{ALWAYS} {studio.model.kind} trained on {studio.model.trained_on['caption']}: {studio.name}"
    return f'<p class="banner{kind}" role="note">{html.escape(words)}</p>'


def _figures(studio: Studio) -> list[tuple[str, str]]:
    """The run's own pictures, as far as they lie beside the model."""
    found = {"curves.png": "curves of training", "images/progress.png": "samples after the first and the last epoch"}
    paths = ((studio.path.parent / name, words) for name, words in found.items())
    return [(str(path), words) for path, words in paths if path.is_file()]


def _card(studio: Studio) -> str:
    path = model_card.beside(studio.path)
    return path.read_text(errors="replace") if path.is_file() else "There is no model card beside the model."
