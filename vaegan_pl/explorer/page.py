"""The page: one tab per task, with separate state for each visitor."""

import html
import math
import secrets
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial, wraps
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import gradio as gr
from gradio.processing_utils import save_bytes_to_cache
from PIL import Image
from torch import Tensor

from vaegan_pl.data.images import SUFFIXES
from vaegan_pl.errors import UserError
from vaegan_pl.evaluation.privacy import LEAST_HELD_OUT
from vaegan_pl.explorer.studio import DIRECTIONS, Point, Samples, Studio
from vaegan_pl.explorer.trained import TrainingImages
from vaegan_pl.report import model_card, provenance
from vaegan_pl.report.latent_pictures import gif
from vaegan_pl.report.pictures import png, read_png, single
from vaegan_pl.storage.files import RefusedError, is_next_to, printable, read_text

ANY = "any class"
SHARP, SMOOTH = "sharp pixels", "smooth (Lanczos)"
SHOWN_SIDE = 128
"""Smaller images are sent at the largest multiple of their size up to this. Browsers enlarge them further and never
shrink them, which would drop pixels."""

MOST, MOST_PER_CLASS, MOST_COMPARED, MOST_SEED = 64, 250, 16, 2**53 - 1
MOST_BYTES = "20mb"
MOST_VISITORS = 64
KEPT_SECONDS = 1800
"""Age at which generated pictures and downloads are deleted."""

ALWAYS = "Synthetic images. Not for diagnosis."
CSS = """
.banner { padding: .5em .8em; border-radius: .4em; background: #e8eef7; color: #1b2733; overflow-wrap: anywhere; }
.banner.drawings { background: #7a1f1f; color: #ffffff; font-weight: 600; }
.grid-container { grid-template-columns: repeat(auto-fill, minmax(132px, 1fr)) !important; }
#compared .grid-container, #figures .grid-container { grid-template-columns: 1fr !important; }
#card { overflow-wrap: break-word; overflow-x: auto !important; }
#original img, #before img, #after img { width: 100%; }
body:not(.smooth) img { image-rendering: pixelated; }
"""
SMOOTHEN = f"(scaling) => {{ document.body.classList.toggle('smooth', scaling === '{SMOOTH}'); return scaling; }}"
QUIET: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}

Training = Callable[[Studio], TrainingImages]
Tiles = list[tuple[str, str]]
P = ParamSpec("P")
T = TypeVar("T")


@dataclass(frozen=True)
class Drawn:
    """The samples that a visitor sees in the first tab, and their model."""

    studio: str
    samples: Samples


def _told(handler: Callable[P, T]) -> Callable[P, T]:
    """Wrap a handler so that a user's mistake is shown on the page as one message."""

    @wraps(handler)
    def tell(*arguments: P.args, **options: P.kwargs) -> T:
        try:
            return handler(*arguments, **options)
        except (UserError, OSError) as error:
            raise gr.Error(_message(error), print_exception=False) from error

    return tell


def _message(text: object) -> str:
    """Text escaped for a message on the page, which is HTML."""
    return html.escape("\n".join(map(printable, str(text).split("\n"))))


def _whole(value: object, name: str, low: int, high: int) -> int:
    """Check a number that a visitor entered.

    Raises:
        UserError: unless it is a whole number from `low` to `high`.
    """
    number = isinstance(value, int | float) and math.isfinite(value) and value == int(value) and low <= value <= high
    if not number:
        raise UserError(f"{name}: give a whole number from {low} to {high}")
    assert isinstance(value, int | float)
    return int(value)


def enlarged(image: Tensor, scaling: str) -> Image.Image:
    """One image in [-1, 1], enlarged."""
    picture = single(image)
    times = max(1, SHOWN_SIDE // picture.width)
    resampling = Image.Resampling.LANCZOS if scaling == SMOOTH else Image.Resampling.NEAREST
    return picture.resize((times * picture.width, times * picture.height), resampling)


class Page:
    """The page.

    Args:
        studios: the models; the first one is shown at the start.
        training: finds the training images of a model; raises UserError if they are not available.
        seed: seed of the first samples.
    """

    def __init__(self, studios: Sequence[Studio], training: Training, seed: int) -> None:
        shown = [replace(studio, name=printable(studio.name)) for studio in studios]
        self.studios = {studio.name: studio for studio in shown}
        self.training = training
        self.seed = seed
        self.first = shown[0]
        self.followers: list[tuple[Any, Callable[[Studio], Any]]] = []
        self.blocks = gr.Blocks(title="VAE/GAN", analytics_enabled=False, delete_cache=(60, KEPT_SECONDS))
        with self.blocks:
            self._follow(gr.HTML, lambda studio: {"value": _banner(studio)})
            with gr.Row():
                names = list(self.studios)
                self.model = gr.Dropdown(names, value=names[0], label="Model", visible=len(names) > 1)
                self.scaling = gr.Radio([SHARP, SMOOTH], value=SHARP, label="Enlarge images with")
            self.drawn = gr.State(None)
            with gr.Tab("Generate"):
                samples, redraw = self._generate()
            with gr.Tab("Edit"):
                edited = self._edit()
            with gr.Tab("Interpolate"):
                self._interpolate()
            with gr.Tab("Inspect"):
                inspected = self._inspect()
            if len(names) > 1:
                with gr.Tab("Compare"):
                    self._compare()
            samples.select(_selected, None, [edited, inspected], **QUIET)
            self.scaling.change(None, self.scaling, self.scaling, js=SMOOTHEN, **QUIET)
            followers = [component for component, _ in self.followers]
            redraw(self.model.change(self._adapt, self.model, followers, **QUIET).then)

    def _follow(self, kind: Callable[..., Any], of: Callable[[Studio], dict[str, Any]], **fixed: Any) -> Any:
        """A component with properties that depend on the chosen model."""
        component = kind(**fixed, **of(self.first))
        self.followers.append((component, lambda studio: kind(**of(studio))))
        return component

    def _clear(self, component: Any) -> Any:
        """Empty a component when another model is chosen."""
        self.followers.append((component, lambda _: None))
        return component

    def _adapt(self, name: str) -> list[Any]:
        return [of(self.studios[name]) for _, of in self.followers]

    def _generate(self) -> tuple[gr.Gallery, Callable[[Callable[..., Any]], Any]]:
        with gr.Row():
            with gr.Column(scale=1):
                label = self._follow(gr.Dropdown, _choices, label="Class")
                seed = gr.Number(self.seed, label="Seed", precision=0, minimum=0, maximum=MOST_SEED)
                n = gr.Slider(1, MOST, 16, step=1, label="Number of images")
                temperature = gr.Slider(0, 2, 1, step=0.05, label="Temperature", info="below 1: more alike")
                other = gr.Button("Another seed", variant="primary")
            with gr.Column(scale=3):
                gallery = _gallery("Samples", "samples")
                sheet = gr.DownloadButton("Download as one PNG", elem_id="sheet")
        title = {"label": "Class folders to download", "open": False}
        with self._follow(gr.Accordion, lambda studio: {"visible": bool(studio.labels)}, **title):
            per_class = gr.Number(50, label="Images per class", precision=0, minimum=1, maximum=MOST_PER_CLASS)
            make = gr.Button("Make class folders")
            folders = gr.DownloadButton("Download ZIP", visible=False, elem_id="folders")
        inputs = [self.model, label, seed, n, temperature, self.scaling]
        outputs = [gallery, sheet, self.drawn]
        changes = [each.change for each in (label, seed, n, temperature, self.scaling)]
        gr.on([self.blocks.load, *changes], self._draw, inputs, outputs, trigger_mode="always_last", **QUIET)
        other.click(lambda: secrets.randbelow(10**6), None, seed, **QUIET)
        make.click(self._folders, [self.model, per_class, seed, temperature], folders, api_visibility="private")
        self.drawn.change(lambda: gr.DownloadButton(visible=False), None, folders, **QUIET)
        return gallery, lambda event: event(self._draw, inputs, outputs, **QUIET)

    @_told
    def _draw(
        self, name: str, label: str, seed: float, n: float, temperature: float, scaling: str
    ) -> tuple[Tiles, str, Drawn]:
        studio = self.studios[name]
        own, start = None if label == ANY else label, _whole(seed, "Seed", 0, MOST_SEED)
        samples = studio.draw(own, _whole(n, "Number of images", 1, MOST), start, temperature)
        what = f"{own or ANY}, seed {start}"
        words = provenance.words(studio.model)
        tiles = [
            (self._shown(image, scaling, words), f"{i}: {what}") for i, image in enumerate(samples.images, start=1)
        ]
        sheet = studio.sheet(samples.images, f"{what}, temperature {temperature:g}")
        return tiles, self._file(sheet, f"{own or 'any'}_seed_{start}.png"), Drawn(name, samples)

    @_told
    def _folders(self, name: str, n: float, seed: float, temperature: float) -> Any:
        count, start = _whole(n, "Images per class", 1, MOST_PER_CLASS), _whole(seed, "Seed", 0, MOST_SEED)
        content = self.studios[name].class_folders(count, start, temperature)
        return gr.DownloadButton(value=self._file(content, f"synthetic_seed_{start}.zip"), visible=True)

    def _edit(self) -> gr.Number:
        """Build the tab; returns the field for the number of a sample."""
        with gr.Row():
            with gr.Column():
                number = gr.Number(1, label="Number of a sample in the first tab", precision=0, minimum=1, maximum=MOST)
                sample = gr.Button("Use this sample")
                upload = self._upload("Your image", "upload")
                label = self._told_class()
                held_out = self._follow(gr.Button, _if_it_encodes, value="Use a held-out image")
            with gr.Column(scale=2), gr.Row():
                shown = [self._clear(_image(what, what.lower())) for what in ("Original", "Before", "After")]
        with gr.Row():
            with gr.Column():
                most = max(len(studio.directed) for studio in self.studios.values())
                towards = [self._follow(gr.Slider, partial(_toward, i), **_range(2, 0.05)) for i in range(most)]
            with gr.Column():
                along = [self._follow(gr.Slider, partial(_direction, i), **_range(6, 0.1)) for i in range(DIRECTIONS)]
        reset = gr.Button("Reset")
        point, sliders = self._clear(gr.State(None)), [*towards, *along]
        taken = [point, *shown, *sliders]

        def take(event: Callable[..., Any], find: Callable[..., Point], *inputs: Any) -> None:
            handler = partial(self._take, len(sliders), find)
            event(handler, [self.model, self.scaling, *inputs], taken, api_visibility="private")

        take(sample.click, self._sampled, self.drawn, number)
        take(upload.upload, self._uploaded, upload, label)
        take(held_out.click, self._held_out, number)
        label.input(
            partial(self._told_again, len(sliders)),
            [self.model, self.scaling, upload, label],
            taken,
            api_visibility="private",
        )
        gr.on(
            [slider.change for slider in sliders],
            self._move,
            [self.model, self.scaling, point, *sliders],
            shown[-1],
            trigger_mode="always_last",
            **QUIET,
        )
        reset.click(lambda: [0] * len(sliders), None, sliders, **QUIET)
        return number

    @_told
    def _take(self, sliders: int, find: Callable[..., Point], name: str, scaling: str, *given: Any) -> list[Any]:
        """Start from the point that `find` returns, with all sliders at 0."""
        studio = self.studios[name]
        point = find(studio, *given)
        image = self._shown(studio.decoded(point)[0], scaling, provenance.words(studio.model))
        original = None if point.image is None else self._shown(point.image[0], scaling, "image, as the model sees it")
        return [point, original, image, image, *[0] * sliders]

    def _told_again(self, sliders: int, name: str, scaling: str, file: str | None, label: str | None) -> list[Any]:
        """Start again from the uploaded image after its class was chosen."""
        if file is None:
            return [gr.skip()] * (4 + sliders)
        return self._take(sliders, self._uploaded, name, scaling, file, label)

    @staticmethod
    def _uploaded(studio: Studio, file: str, label: str | None) -> Point:
        return studio.encoded(Path(file), label)

    @staticmethod
    def _sampled(studio: Studio, drawn: Drawn | None, number: float) -> Point:
        if drawn is None or drawn.studio != studio.name:
            raise UserError("there are no samples yet; generate some in the first tab")
        chosen = _whole(number, "Number of the sample", 1, len(drawn.samples.images))
        return studio.point(drawn.samples, chosen - 1)

    def _held_out(self, studio: Studio, number: float) -> Point:
        files = self.training(studio).held_out
        return studio.encoded(*files[(_whole(number, "Number", 1, MOST) - 1) % len(files)])

    @_told
    def _move(self, name: str, scaling: str, point: Point | None, *strengths: float) -> str | None:
        if point is None:
            return None
        studio = self.studios[name]
        towards = dict(zip(studio.directed, strengths[:-DIRECTIONS], strict=False))
        moved = studio.moved(point, towards, strengths[-DIRECTIONS:])
        return self._shown(studio.decoded(moved)[0], scaling, provenance.words(studio.model))

    def _interpolate(self) -> None:
        ends = []
        with gr.Row():
            for place, what in enumerate(("From", "To"), start=1):
                with gr.Column():
                    text = f"{what}: number of a sample in the first tab, unless there is an image below"
                    number = gr.Number(place, label=text, precision=0, minimum=1, maximum=MOST)
                    ends += [self._upload(f"{what}: your image", what.lower()), number]
        label = self._told_class()
        go = gr.Button("Interpolate between them", variant="primary")
        strip = self._clear(_image("From left to right", "strip"))
        moving = self._clear(_image("Animation", "animation"))
        go.click(self._between, [self.model, self.drawn, label, *ends], [strip, moving], api_visibility="private")

    @_told
    def _between(self, name: str, drawn: Drawn | None, label: str | None, *ends: Any) -> tuple[str, str]:
        studio = self.studios[name]
        start, end = (
            self._sampled(studio, drawn, number) if file is None else self._uploaded(studio, file, label)
            for file, number in (ends[:2], ends[2:])
        )
        tour, words = studio.between(start, end), provenance.words(studio.model)
        return self._file(png(tour.grid(), words), "interpolation.png"), self._file(
            gif(tour, words), "interpolation.gif"
        )

    def _inspect(self) -> gr.Number:
        """Build the tab; returns the field for the number of the inspected sample."""
        gr.Markdown("Which training images does a sample in the first tab resemble, and is it a copy of one?")
        with gr.Row():
            number = gr.Number(1, label="Number of the sample", precision=0, minimum=1, maximum=MOST)
            find = gr.Button("Find the nearest training images", variant="primary")
        verdict = gr.Textbox(label="Copy score", interactive=False, elem_id="verdict")
        nearest = _gallery("Nearest", "nearest")
        given, found = [self.model, self.drawn, number, self.scaling], [verdict, nearest]
        find.click(self._nearest, given, found, api_visibility="private")
        self.drawn.change(lambda: (None, None), None, found, **QUIET)
        with gr.Accordion("The run", open=False):
            figures = {
                "label": "Figures",
                "elem_id": "figures",
                "height": "auto",
                "buttons": ["download", "fullscreen"],
            }
            self._follow(gr.Gallery, lambda studio: {"value": self._figures(studio)}, **figures)
            self._follow(gr.HTML, lambda studio: {"value": _card(studio)}, elem_id="card")
        return number

    @_told
    def _nearest(self, name: str, drawn: Drawn | None, number: float, scaling: str) -> tuple[str, Tiles]:
        studio = self.studios[name]
        sample = studio.decoded(self._sampled(studio, drawn, number))[0]
        trained = self.training(studio)
        neighbours, calibration = trained.nearest(sample), trained.calibration
        words = "counts as a copy" if trained.is_copy(neighbours[0]) else "not a copy"
        few = "; that is too few images to rely on" if calibration.images < LEAST_HELD_OUT else ""
        tiles = [(self._shown(sample, scaling, provenance.words(studio.model)), f"sample {number:g}")]
        for one in neighbours:
            file = printable(one.name)
            caption = f"{one.correlation:.3f}{', mirrored' if one.mirrored else ''}: {file}"
            tiles.append((self._shown(one.image, scaling, f"training image {file}"), caption))
        return (
            f"{neighbours[0].correlation:.3f}: {words} (above {calibration.threshold:.3f} it would count as one; of "
            f"{calibration.images} held-out images, {calibration.above} lie above{few})"
        ), tiles

    def _figures(self, studio: Studio) -> Tiles:
        """The run's pictures, if they are real files next to the model; symbolic links could lead anywhere."""
        found = {"curves.png": "training curves", "images/progress.png": "samples after the first and last epoch"}
        tiles = []
        for name, words in found.items():
            with suppress(OSError, RefusedError):
                tiles.append(
                    (self._file(read_png(studio.path.parent / name, studio.path.parent), Path(name).name), words)
                )
        return tiles

    def _compare(self) -> None:
        labels = sorted({label for studio in self.studios.values() for label in studio.labels})
        with gr.Row():
            label = gr.Dropdown([ANY, *labels], value=ANY, label="Class to compare")
            seed = gr.Number(self.seed, label="Seed", precision=0, minimum=0, maximum=MOST_SEED)
            n = gr.Slider(1, MOST_COMPARED, 16, step=1, label="Number of images")
        go = gr.Button("Compare the models", variant="primary")
        rows = _gallery("The same seed in each model", "compared")
        go.click(self._side_by_side, [label, seed, n], rows, api_visibility="private")

    @_told
    def _side_by_side(self, label: str, seed: float, n: float) -> Tiles:
        own, start = None if label == ANY else label, _whole(seed, "Seed", 0, MOST_SEED)
        count = _whole(n, "Number of images", 1, MOST_COMPARED)
        rows = []
        for name, studio in self.studios.items():
            if own is not None and own not in studio.labels:
                gr.Warning(_message(f"{name} has no class {own}"))
                continue
            samples = studio.draw(own, count, start, 1.0)
            sheet = studio.sheet(samples.images, f"{name}: {own or ANY}, seed {start}")
            rows.append((self._file(sheet, "row.png"), name))
        return rows

    def _upload(self, title: str, name: str) -> Any:
        """A field for an image, shown for models with an encoder."""

        def of(studio: Studio) -> dict[str, Any]:
            return {**_if_it_encodes(studio), "value": None}

        return self._follow(gr.File, of, label=title, elem_id=name, file_types=sorted(SUFFIXES), height=150)

    def _told_class(self) -> Any:
        """A choice of an image's class, shown for conditional models."""

        def of(studio: Studio) -> dict[str, Any]:
            return {"visible": studio.model.is_conditional, "choices": studio.labels, "value": None}

        return self._follow(gr.Dropdown, of, label="Class of your image")

    def _shown(self, image: Tensor, scaling: str, words: str) -> str:
        """A picture of an image for the page, with its provenance in the metadata."""
        return self._file(png(enlarged(image, scaling), words), "image.png")

    def _file(self, content: bytes, name: str) -> str:
        """A file that the page may show or offer for download; deleted after `KEPT_SECONDS`."""
        return str(save_bytes_to_cache(content, name, self.blocks.GRADIO_CACHE))


def _selected(event: gr.SelectData) -> tuple[int, int]:
    """The number of the sample selected in the first tab, for two other tabs."""
    return int(event.index) + 1, int(event.index) + 1


def _gallery(label: str, elem_id: str) -> gr.Gallery:
    return gr.Gallery(label=label, elem_id=elem_id, height="auto", buttons=["download", "fullscreen"])


def _image(label: str, elem_id: str) -> gr.Image:
    return gr.Image(
        label=label,
        elem_id=elem_id,
        alt_text=label,
        format="png",
        interactive=False,
        buttons=["download", "fullscreen"],
    )


def _choices(studio: Studio) -> dict[str, Any]:
    return {"choices": [ANY, *studio.labels], "value": ANY}


def _if_it_encodes(studio: Studio) -> dict[str, Any]:
    return {"visible": studio.model.has_encoder}


def _range(most: float, step: float) -> dict[str, float]:
    return {"minimum": -most, "maximum": most, "step": step}


def _toward(i: int, studio: Studio) -> dict[str, Any]:
    known = i < len(studio.directed)
    return {"label": f"More {studio.directed[i]}" if known else "-", "visible": known, "value": 0}


def _direction(i: int, studio: Studio) -> dict[str, Any]:
    return {"label": f"Direction {i + 1}", "visible": i < studio.directions, "value": 0}


def _banner(studio: Studio) -> str:
    kind = " drawings" if studio.model.trained_on.is_phantom else ""
    words = f"{ALWAYS} {studio.model.kind} trained on {studio.model.trained_on.caption}: {studio.name}"
    return f'<p class="banner{kind}" role="note">{html.escape(words)}</p>'


def _card(studio: Studio) -> str:
    path = model_card.path_for(studio.path)
    with suppress(OSError, RefusedError):
        if is_next_to(path, studio.path.parent):
            return model_card.as_html(read_text(path))
    return "There is no model card next to the model."
