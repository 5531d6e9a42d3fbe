"""Model cards: what a model was trained on and how, its metrics, its limits and its intended use."""

import hashlib
import html
import re
from collections.abc import Sequence
from pathlib import Path

from vaegan_pl.errors import UserError
from vaegan_pl.model.saved_model import SavedModel
from vaegan_pl.report.provenance import sha256
from vaegan_pl.storage.files import RefusedError, atomic_write, printable, read_text
from vaegan_pl.storage.outputs import MADE_BY

NOT_A_GUARANTEE = (
    "This is an empirical audit, not a guarantee of privacy: it finds what its own comparisons and attacks find, and "
    "nothing else."
)

RELEASED = (
    "- certificate.md states what is guaranteed about the images that the classes' density came from. The figures "
    "above were computed from images without any noise, so they are not covered: do not publish them with the model.\n"
)
"""What the card of a model released under differential privacy adds."""

_KINDS = {
    "VAE/GAN": "Larsen et al.'s VAE/GAN (arXiv 1512.09300)",
    "VAE": "A variational autoencoder (arXiv 1312.6114)",
    "GAN": "A generative adversarial network (arXiv 1406.2661)",
}

_CARD = """# Model card: {kind} of head slices

{what} for grey images, trained with vaegan_pl.

File: {file}, SHA-256 {sha256}

## Intended use

Research and teaching: studies of generative models, and synthetic images as far as the figures below support their use.
Not for diagnosis, not for decisions about patients, and not as evidence of anatomy.

## Data

- {caption}
- images: {counts}
- split: {split}
- fingerprint (SHA-256 of pixels and classes): {fingerprint}

## Training

{training}

## Figures

{figures}

## Limits

- The model knows one data set of single slices. {apart}
- Lesions in samples have no known diagnosis. A sample's label names {label}.
- {not_a_guarantee}
{released}"""


_APART = {
    "patients": "As far as patients are known, all slices of one patient are in the same split.",
    "pictures": "The patients are unknown, so slices of one patient may be in several splits.",
    "nothing": "The folders' own split was used, so copies and slices of one patient may be in several splits.",
}
"""What a card says about patients, by `Collection.keeps_apart`."""

_LAST_LINE = re.compile(r"<!-- vaegan_pl \S+; SHA-256 of the lines above: ([0-9a-f]{64}) -->\n")
_MARKS = re.compile(r"[\\`*<&$~]|(?<![^\W_])_|_(?![^\W_])|\](?=[(:\[])|:(?=//)|(?<=www)\.")
_MARKED = re.compile(r"\\(&[a-z0-9#]+;|[!-/:-@\[-`{-~])")
_BOLD = re.compile(r"(?<!\\)\*\*(.+?)(?<!\\)\*\*")


def write(weights: Path, card: str, overwrite: bool = False) -> Path:
    """Write a model's card next to its file; a card that was changed by hand stays.

    Args:
        weights: the model's file.
        card: the card.
        overwrite: whether a card that was changed may be replaced.

    Returns:
        The card's path.

    Raises:
        OSError: if it cannot be written.
        UserError: if there is a card that was changed.
    """
    path = path_for(weights)
    if not overwrite and (path.exists() or path.is_symlink()) and not _is_untouched(path):
        raise UserError(f"{path} has been changed since this project wrote it; overwrite=true replaces it")
    atomic_write(path, f"{card}<!-- {MADE_BY}; SHA-256 of the lines above: {_digest(card)} -->\n", durable=False)
    return path


def _is_untouched(path: Path) -> bool:
    try:
        card = read_text(path)
    except (OSError, RefusedError):
        return False
    last = _LAST_LINE.search(card)
    return not path.is_symlink() and last is not None and last[1] == _digest(card[: last.start()])


def _digest(card: str) -> str:
    return hashlib.sha256(card.encode(errors="backslashreplace")).hexdigest()


def path_for(weights: Path) -> Path:
    """The path of a model's card: `model_card.md` for `vae_gan_model.pth`, else `model_card_NAME.md`."""
    name = "" if weights.stem == "vae_gan_model" else f"_{weights.stem.removeprefix('vae_gan_model_')}"
    return weights.with_name(f"model_card{name}.md")


_FRONT_MATTER = """---
library_name: vaegan_pl
pipeline_tag: unconditional-image-generation
tags:
- vae-gan
- medical-imaging
- synthetic
{license}---

"""


def for_the_hub(weights: Path, license_: str | None) -> str:
    """A model's card, with the front matter that the Hugging Face Hub reads.

    Args:
        weights: the model's file.
        license_: identifier of its license; None names none.

    Raises:
        UserError: if the card is missing, cannot be read, or is that of another file.
    """
    path = path_for(weights)
    evaluate = "python -m vaegan_pl.evaluate, with the data options of the training run,"
    try:
        card = read_text(path)
    except FileNotFoundError as error:
        raise UserError(f"{path}: there is no model card; {evaluate} writes it") from error
    except RefusedError as error:
        raise UserError(f"{path}: {error}; {evaluate} writes it again with overwrite=true") from error
    if sha256(weights) not in card:
        raise UserError(f"{path}: is the card of another model file; {evaluate} replaces it with overwrite=true")
    return _FRONT_MATTER.format(license="" if license_ is None else f"license: {license_}\n") + card


def as_html(card: str) -> str:
    """A card as HTML: headings, lists, tables and bold words.

    The card may come from anyone, so everything else is escaped and stays text.
    """
    return "\n".join(map(_block, re.split(r"\n{2,}", _LAST_LINE.sub("", card).strip())))


def _block(block: str) -> str:
    heading = re.match(r"#{1,6} ", block)
    if heading is not None:
        level = heading.end() - 1
        return f"<h{level}>{_words(block[level:])}</h{level}>"
    if block.startswith("- "):
        return "".join(["<ul>", *(f"<li>{_words(item)}</li>" for item in block[2:].split("\n- ")), "</ul>"])
    if block.startswith("| "):
        lines = [line for line in block.split("\n") if not line.startswith("| ---")]
        return "".join(["<table>", *map(_row, lines), "</table>"])
    return f"<p>{_words(block)}</p>"


def _row(line: str) -> str:
    cells = line.removeprefix("| ").removesuffix(" |").split(" | ")
    return "".join(["<tr>", *(f"<td>{_words(cell)}</td>" for cell in cells), "</tr>"])


def _words(text: str) -> str:
    return _MARKED.sub(r"\1", _BOLD.sub(r"<b>\1</b>", html.escape(text)))


def literal(text: object) -> str:
    """Text with Markdown's marks escaped."""
    return _MARKS.sub(r"\\\g<0>", printable(text))


def text(path: Path, model: SavedModel, figures: Sequence[str]) -> str:
    """The card in Markdown.

    Args:
        path: the model's file.
        model: the model.
        figures: lines that say what was measured.
    """
    trained_on = model.trained_on
    counts = (
        f"{name} {sum(classes.values())} ({', '.join(f'{n} {label}' for label, n in classes.items())})"
        for name, classes in trained_on.counts.items()
    )
    configuration = {**model.networks.arguments, **model.preprocessing, **model.training}
    return _CARD.format(
        kind=model.kind,
        what=_KINDS[model.kind],
        label="the class that its decoder was conditioned on"
        if model.networks.classes
        else "the part of the latent space that it was drawn from",
        file=literal(path.name),
        sha256=sha256(path),
        caption=literal(trained_on.caption),
        counts=literal("; ".join(counts)),
        apart=_APART.get(str((trained_on.split or {}).get("keeps_apart")), _APART["pictures"]),
        split=literal(", ".join(f"{name} {value}" for name, value in (trained_on.split or {}).items())),
        released="" if trained_on.release is None else RELEASED,
        fingerprint=literal(trained_on.fingerprint),
        training="\n".join(f"- {literal(f'{name}: {value}')}" for name, value in configuration.items()),
        figures="\n".join(figures),
        not_a_guarantee=NOT_A_GUARANTEE,
    )
