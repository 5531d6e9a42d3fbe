"""A report on a folder of images, as `data_report.json` and as a page with pictures."""

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Int
from matplotlib.figure import Figure
from numpy import ndarray

from vaegan_pl.data.collection import DARK, Collection
from vaegan_pl.data.copies import TURNS
from vaegan_pl.data.splits import SPLITS
from vaegan_pl.report.page import Picture, Section, Table, literal, picture, render
from vaegan_pl.report.pictures import tiles
from vaegan_pl.storage.files import atomic_write
from vaegan_pl.storage.outputs import MADE_BY

JSON, PAGE = "data_report.json", "data_report.html"

_SHOWN_GROUPS = 8
_SHOWN_IMAGES = 16
_SHOWN_CONFLICTS = 20
_SHOWN_ROWS = 100


def write(collection: Collection, directory: Path) -> None:
    """Write `data_report.json` and `data_report.html` into a directory."""
    facts = gather(collection)
    page = _page(collection, facts)
    atomic_write(directory / JSON, json.dumps(facts, indent=2, ensure_ascii=False), durable=False)
    atomic_write(directory / PAGE, page, durable=False)


def gather(collection: Collection) -> dict[str, Any]:
    """The content of the report as plain values; paths are relative to the folder."""
    prepared, files, classes = collection.prepared, collection.listing.files, collection.listing.classes
    groups, labels = collection.groups, collection.labels
    mirrored = np.where(groups < 0, -1, prepared.pairs.same_frame.only(["same way up", "mirrored"]).groups(len(files)))
    counts = {split: collection.counts(split) for split in SPLITS}
    per_class = {
        name: {
            "images": int((labels == label).sum()),
            "groups_same_or_mirrored": _distinct(mirrored[labels == label]),
            "groups": _distinct(groups[labels == label]),
            **{split: counts[split][name] for split in SPLITS},
        }
        for label, name in enumerate(classes)
    }
    everywhere = {"groups_same_or_mirrored": _distinct(mirrored), "groups": _distinct(groups)}
    total = {key: sum(row[key] for row in per_class.values()) for key in next(iter(per_class.values()))}
    return {
        "made_by": MADE_BY,
        "what": "phantoms drawn by vaegan_pl; not MRI" if collection.is_phantom else "images",
        "folder": str(collection.root.resolve()),
        "fingerprint": collection.fingerprint(),
        "decoding": vars(collection.decoding),
        "splitting": collection.splitting.facts,
        "split_by": collection.split_by,
        "notes": collection.notes,
        "warnings": collection.warnings,
        "classes": {**per_class, _together(classes): {**total, **everywhere}},
        "copies": {
            "dropped": len(collection.split.dropped),
            "files_with_the_pixels_of_an_earlier_one": sum(n - 1 for key, n in Counter(prepared.keys).items() if key),
            "pairs": {turn: len(prepared.pairs.same_frame.only([turn])) for turn in TURNS}
            | {"in another frame": int(prepared.pairs.registered.sum())},
            "largest_groups": [[collection.name(i) for i in group] for group in collection.copies[:_SHOWN_GROUPS]],
        },
        "label_conflicts": [
            {collection.name(i): classes[files[i].label] for i in group} for group in collection.conflicts
        ],
        "leaks": {
            "of_the_folders_own_split": _leaks(collection),
            "of_the_split_used": {split: len(images) for split, images in collection.leaking.items()},
        },
        "left_out": {
            "unreadable": {collection.name(i): reason for i, reason in prepared.unreadable.items()},
            "masks": [collection.name(i) for i in collection.masks],
            "ignored": {collection.shown(path): reason for path, reason in collection.listing.ignored},
        },
        "sizes": [
            {"height": height, "width": width, "images": n}
            for (height, width), n in Counter(shape for shape in prepared.shapes if shape != (0, 0)).most_common()
        ],
        "intensity": _intensity(collection),
    }


def _together(classes: Sequence[str]) -> str:
    """The title of the row of all classes, different from every class name."""
    name = "all"
    while name in classes:
        name = f"({name})"
    return name


def _distinct(groups: Int[ndarray, " image"]) -> int:
    return len(np.unique(groups[groups >= 0]))


def _leaks(collection: Collection) -> dict[str, dict[str, int]] | None:
    """For each class, the number of images outside the training folder that have a copy in it.

    `in any way` counts images that share a group with a training image.
    """
    folders = np.array([file.folder for file in collection.listing.files])
    held_out = np.isin(folders, ["validation", "test"])
    if not held_out.any():
        return None
    pairs, keys = collection.prepared.pairs.same_frame, collection.prepared.keys
    trained = {key for key, out in zip(keys, held_out, strict=True) if not out} - {""}
    copied = {"identical pixels": np.array([key in trained for key in keys])}
    turns = list(TURNS)
    for name, among in ((turns[0], turns[:1]), (f"or {turns[1]}", turns[:2])):
        some = pairs.only(among)
        across = held_out[some.first] != held_out[some.second]
        copied[name] = np.zeros(len(keys), dtype=bool)
        copied[name][some.first[across]] = copied[name][some.second[across]] = True
    readable = collection.groups >= 0
    copied["in any way"] = readable & np.isin(collection.groups, collection.groups[~held_out & readable])
    rows = {
        name: {
            "images": int(of_class.sum()),
            **{how: int((of_class & having).sum()) for how, having in copied.items()},
        }
        for label, name in enumerate(collection.listing.classes)
        if (of_class := held_out & (collection.labels == label)).any()
    }
    together = {key: sum(row[key] for row in rows.values()) for key in ["images", *copied]}
    return {**rows, _together(collection.listing.classes): together}


def _intensity(collection: Collection) -> dict[str, dict[str, Any]]:
    facts = {}
    for label, name in enumerate(collection.listing.classes):
        histogram, dark, n = np.zeros(256, dtype=np.int64), 0, 0
        chosen = np.flatnonzero((collection.labels == label) & (collection.groups >= 0))
        for start in range(0, len(chosen), 1024):
            images = collection.prepared.images[chosen[start : start + 1024]]
            histogram += np.bincount(images.ravel(), minlength=256)
            dark += int((images.max((1, 2)) < DARK).sum())
            n += images.size
        values = np.arange(256)
        mean = float(histogram @ values / n)
        facts[name] = {
            "mean": mean,
            "standard_deviation": float(np.sqrt(histogram @ (values - mean) ** 2 / n)),
            "dark_images": dark,
            "histogram": (histogram / n).tolist(),
        }
    return facts


def _page(collection: Collection, facts: dict[str, Any]) -> str:
    together = _together(collection.listing.classes)
    everything = facts["classes"][together]
    name = collection.root.resolve().name
    lead = [
        f"{everything['images']:,} images of {len(collection.listing.classes)} classes, "
        f"{everything['groups']:,} of them different. Split: {everything['train']:,} training, "
        f"{everything['validation']:,} validation and {everything['test']:,} test images."
    ]
    if collection.is_phantom:
        lead.insert(0, "These are PHANTOMS, drawn by this project. They are not MRI.")
    copy = "near-copy" if facts["decoding"]["near_copy_correlation"] else "copy with identical pixels"
    leaks = facts["leaks"]["of_the_folders_own_split"]
    if leaks:
        n, copied = leaks[together]["images"], leaks[together]["in any way"]
        lead.append(
            f"Of the {n:,} images outside the training folder, {copied:,} ({copied / n:.0%}) have a {copy} in it."
        )
    used = {split: n for split, n in facts["leaks"]["of_the_split_used"].items() if n}
    leaking = " and ".join(f"{n:,} {split}" for split, n in used.items())
    lead.append(
        f"WARNING: the split used here leaks: {leaking} images have a {copy} among the training images. "
        "Results on them look too good. data.split=group leaves no such images."
        if used
        else f"In the split used here, no held-out image has a {copy} among the training images."
    )
    sections = [
        _splits(facts),
        *([_official(leaks)] if leaks else []),
        _looks(collection),
        _copies(collection),
        _conflict_section(collection),
        _intensities(facts),
        _left_out(facts),
        _settings(facts),
    ]
    return render(f"Data report: {name}", lead, sections)


def _rows(table: dict[str, dict[str, int]]) -> list[list[str | int]]:
    return [[name, *row.values()] for name, row in table.items()]


def _splits(facts: dict[str, Any]) -> Section:
    how, decoding = facts["splitting"], facts["decoding"]
    correlation, registered = decoding["near_copy_correlation"], decoding["registered_correlation"]
    text = [
        f"Near-copies are images whose pixels have a correlation of at least {correlation} in one of four positions: "
        "the same way up, mirrored, upside down, or turned by 180°. "
        + (
            "So are images of the same slice in another frame (cropped, with wider margins, rotated by a few degrees), "
            f"if they have a correlation of at least {registered} after registration. "
            if registered
            else ""
        )
        + "Near-copies, and chains of them, form groups."
        if correlation
        else "Images with identical pixels form groups. Near-copies were not searched for (near_copy_correlation=null)."
    ]
    if how["by"] == "group":
        kept = {
            "drop": "one image of each group is kept",
            "weight": "all images of a group are kept for training, and each epoch shows one of them",
        }
        text.append(f"Groups are split by class with seed {how['seed']}; {kept[how['copies']]}.")
    else:
        text.append("The folders' own split is used as it is, including copies and label conflicts.")
    text += [f"Split by {facts['split_by']}.", *(f"{note}." for note in facts["notes"])]
    text += [f"WARNING: {warning}." for warning in facts["warnings"]]
    columns = ["class", "images", "groups, same or mirrored", "groups", *SPLITS]
    return Section("Classes and splits", text, [Table(columns, _rows(facts["classes"]), total=True)])


def _official(leaks: dict[str, dict[str, int]]) -> Section:
    text = [
        "Images outside the training folder, and how many have a copy in it (in any way: an image of the same group)."
    ]
    columns = ["class", *next(iter(leaks.values()))]
    return Section("What the folders' own split leaks", text, [Table(columns, _rows(leaks), total=True)])


def _show(collection: Collection, images: list[int], alt: str, caption: str) -> Picture:
    pixels = torch.from_numpy(collection.prepared.images[images])[:, None]
    return picture(tiles(pixels, min(8, len(images))), alt, caption)


def _looks(collection: Collection) -> Section:
    pictures = []
    for label, name in enumerate(collection.listing.classes):
        trained = [g[0] for g in collection.split.groups["train"] if collection.listing.files[g[0]].label == label]
        chosen = [trained[i] for i in np.linspace(0, len(trained) - 1, min(8, len(trained))).astype(int)]
        pictures.append(_show(collection, chosen, f"training images of {name}", name))
    return Section("Training images, as the networks see them", pictures=pictures)


def _copies(collection: Collection) -> Section:
    pictures = []
    for group in collection.copies[:_SHOWN_GROUPS]:
        shown = group[:_SHOWN_IMAGES]
        classes = ", ".join(sorted({collection.listing.classes[collection.listing.files[i].label] for i in group}))
        names = ", ".join(collection.name(i) for i in shown[:4])
        more = f"; the first {len(shown)} are shown" if len(group) > len(shown) else ""
        caption = f"{len(group)} images of {classes}{more}: {names}{', ...' if len(group) > 4 else ''}"
        pictures.append(_show(collection, shown, f"{len(group)} near-copies", caption))
    text = [f"{len(collection.copies):,} groups have more than one image." if collection.copies else "There are none."]
    return Section("The largest groups of near-copies", text, pictures=pictures)


def _conflict_section(collection: Collection) -> Section:
    pictures = []
    conflicts = collection.conflicts
    for group in conflicts[:_SHOWN_CONFLICTS]:
        shown = group[:_SHOWN_IMAGES]
        names = " | ".join(
            f"{collection.name(i)}: {collection.listing.classes[collection.listing.files[i].label]}" for i in shown
        )
        pictures.append(_show(collection, shown, "near-copies under different labels", names))
    text = ["No picture has two labels."]
    if conflicts:
        out = "All their images are left out." if collection.split.conflicts else "data.split=official leaves them in."
        text = [f"{len(conflicts):,} groups carry more than one label. {out}"]
    if len(conflicts) > len(pictures):
        text.append(f"The first {len(pictures)} are shown; {JSON} lists all.")
    return Section("Label conflicts", text, pictures=pictures)


def _intensities(facts: dict[str, Any]) -> Section:
    figure = Figure(figsize=(9, 3.6))
    axes = figure.subplots()
    for name, values in facts["intensity"].items():
        shares = np.array(values["histogram"]).reshape(64, 4).sum(1)
        axes.plot(np.arange(2, 256, 4), 100 * shares, label=f"mean {values['mean']:.0f}: {literal(name)}")
    axes.set(xlabel="grey value", ylabel="pixels [%]", yscale="log")
    axes.legend(frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    dark = sum(values["dark_images"] for values in facts["intensity"].values())
    text = ["Classes that differ here can be told apart without looking at anatomy."]
    if dark:
        text.append(
            f"{dark:,} images have no pixel as bright as {DARK} of 255. If they are 12-bit values in 16-bit files, "
            "data.white=4095 shows them as intended."
        )
    return Section("Grey values by class", text, pictures=[picture(figure, "histogram of grey values of each class")])


def _left_out(facts: dict[str, Any]) -> Section:
    reasons = [
        *((name, f"unreadable: {reason}") for name, reason in facts["left_out"]["unreadable"].items()),
        *((name, "a mask, by its values") for name in facts["left_out"]["masks"]),
        *facts["left_out"]["ignored"].items(),
    ]
    text = [f"Files and folders: {len(reasons):,}." if reasons else "Nothing."]
    if len(reasons) > _SHOWN_ROWS:
        text.append(f"The first {_SHOWN_ROWS} are shown; {JSON} lists all.")
    table = [Table(["path", "why"], reasons[:_SHOWN_ROWS])] if reasons else []
    return Section("Left out", text, table)


def _settings(facts: dict[str, Any]) -> Section:
    sizes = [(f"{size['width']} x {size['height']}", size["images"]) for size in facts["sizes"][:10]]
    more = len(facts["sizes"]) - len(sizes)
    settings = [(key, str(value)) for part in ("decoding", "splitting") for key, value in facts[part].items()]
    text = [
        f"Folder: {facts['folder']}",
        f"Fingerprint of all readable images and their classes (SHA-256): {facts['fingerprint']}",
        *([f"{more} more sizes are in {JSON}."] if more else []),
    ]
    tables = [Table(["image size", "images"], sizes), Table(["setting", "value"], settings)]
    return Section("Sizes, settings, fingerprint", text, tables)
