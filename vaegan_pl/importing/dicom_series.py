"""Read a DICOM series as volumes."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vaegan_pl.data.dicom import Window
from vaegan_pl.importing.dicom_frames import Frame, read_frames, read_values, reason
from vaegan_pl.importing.volumes import MOST_VOXELS, Found, LeftOut, LeftOutError, Volume

_SAME_PLACE = 0.01
"""Millimetres; slices that are nearer to each other show the same place."""

_UNEVEN = 0.05
"""By how much distances between slices may differ, as a share of them."""

_AS_STORED = np.array([[0.0, 0.0, -1.0], [0.0, -1.0, 0.0], [1.0, 0.0, 0.0]])
"""Steps from slice to slice, row to row and column to column that show slices as they are stored."""

_TO_RAS = np.array([-1.0, -1.0, 1.0])
"""DICOM counts to the patient's left and back, this project to the right and front."""


@dataclass(frozen=True)
class SeriesReader:
    """Reads one series.

    Attributes:
        files: its files.
        number: the volume to take if there are several slices at each place; None leaves such series out.
    """

    files: tuple[Found, ...]
    number: int | None

    def __call__(self) -> Iterator[Volume | LeftOut]:
        """A volume for each orientation and size of slices in the series; files that cannot be read are left out.

        Raises:
            LeftOutError: if no slice is left.
        """
        frames, left_out = self._frames()
        groups: dict[object, list[Frame]] = {}
        for frame in frames:
            groups.setdefault(_alike(frame), []).append(frame)
        taken = False
        for i, members in enumerate(groups.values()):
            name = f"part{i + 1}" if len(groups) > 1 else ""
            failed: dict[Path, str] = {}
            try:
                volume = _volume(members, self.number, name, failed)
            except LeftOutError as error:
                left_out.append(LeftOut("", f"{name}: {error}" if name else str(error)))
            else:
                if volume is not None:
                    yield volume
                    taken = True
            left_out += [LeftOut(file.name, failed[file.path]) for file in self.files if file.path in failed]
        reasons = {part.reason for part in left_out}
        if not taken and len(reasons) == 1:
            raise LeftOutError(reasons.pop())
        yield from left_out

    def _frames(self) -> tuple[list[Frame], list[LeftOut]]:
        """The frames of all files whose header can be read, each once, and the other files."""
        frames: list[Frame] = []
        left_out = []
        known: set[str] = set()
        for file in self.files:
            try:
                found = read_frames(file.path)
            except MemoryError:
                raise
            except LeftOutError as error:
                left_out.append(LeftOut(file.name, str(error)))
            except Exception as error:  # a damaged file can make the decoder raise anything
                left_out.append(LeftOut(file.name, reason(error)))
            else:
                if found[0].instance in known:
                    left_out.append(LeftOut(file.name, "a second copy of the same image"))
                else:
                    known.add(found[0].instance)
                    frames += found
        return frames, left_out


def _alike(frame: Frame) -> object:
    """What slices of one volume have in common."""
    orientation = None if frame.orientation is None else tuple(round(value, 2) + 0.0 for value in frame.orientation)
    return orientation, frame.shape, tuple(round(value, 3) for value in frame.spacing), frame.inverted


def _volume(frames: Sequence[Frame], number: int | None, name: str, failed: dict[Path, str]) -> Volume | None:
    """Slices of the same orientation and size as a volume, sorted by their positions; None if none can be decoded.

    Args:
        frames: the slices.
        number: see `SeriesReader`.
        name: the name of the volume.
        failed: gets the files that cannot be decoded, with the reason; the volume lacks their slices.

    Raises:
        LeftOutError: if they do not make a volume.
    """
    first = frames[0]
    if first.orientation is None:
        ordered = sorted(frames, key=lambda frame: frame.number)
        axes = _AS_STORED * (first.thickness, *first.spacing)
        only_acquired = "its files do not say how the patient lies; plane=acquired takes the slices as stored"
    else:
        ordered = _at_one_time(frames, number)
        positions = np.array([frame.position for frame in ordered])
        steps = np.diff(positions, axis=0)
        step = np.median(steps, axis=0) if len(steps) else first.normal * first.thickness
        lps = np.stack([step, *_in_plane(first)], axis=1)
        axes = lps * _TO_RAS[:, None]
        only_acquired = _irregularity(steps, step, first)
    if len(ordered) * first.shape[0] * first.shape[1] > MOST_VOXELS:
        raise LeftOutError(f"{len(ordered)} slices, more than {MOST_VOXELS:,} values")
    oriented = first.orientation is not None
    values, undecoded = read_values(ordered)
    if undecoded:
        failed.update(undecoded)
        kept = [i for i, frame in enumerate(ordered) if frame.path not in undecoded]
        if not kept:
            return None
        values = values[kept]
        only_acquired = only_acquired or "some of its slices cannot be read"
    return Volume(values, axes, 0, name, _common_window(ordered), first.inverted, only_acquired, oriented)


def _in_plane(frame: Frame) -> tuple[np.ndarray, np.ndarray]:
    """The steps from row to row and from column to column."""
    assert frame.orientation is not None
    return np.array(frame.orientation[3:]) * frame.spacing[0], np.array(frame.orientation[:3]) * frame.spacing[1]


def _at_one_time(frames: Sequence[Frame], number: int | None) -> list[Frame]:
    """One slice at each place, in the order of places along the normal.

    Raises:
        LeftOutError: if there are several, and no volume is chosen.
    """
    normal = frames[0].normal
    placed = [(float(np.dot(frame.position or (), normal)), frame) for frame in frames]
    places: list[list[Frame]] = []
    last = -np.inf
    for place, frame in sorted(placed, key=lambda pair: pair[0]):
        if place - last > _SAME_PLACE:
            places.append([])
            last = place
        places[-1].append(frame)
    most = max(map(len, places))
    if most > 1 and number is None:
        raise LeftOutError(f"holds up to {most} images at each place; volume=0 to {most - 1} takes one")
    wanted = number if most > 1 and number is not None else 0
    in_order = [sorted(place, key=lambda frame: (frame.number, frame.instance)) for place in places]
    chosen = [place[wanted] for place in in_order if len(place) > wanted]
    if not chosen:
        raise LeftOutError(f"holds up to {most} images at each place, no volume={number}")
    return chosen


def _irregularity(steps: np.ndarray, step: np.ndarray, frame: Frame) -> str:
    """Why slices do not form a regular grid, in which other planes could be cut; empty if they do."""
    if frame.tile is not None:
        return "a mosaic does not say in which direction its slices are counted; plane=acquired takes them as stored"
    if len(steps) and np.abs(steps - step).max() > _UNEVEN * np.linalg.norm(step) + _SAME_PLACE:
        distances = np.linalg.norm(steps, axis=1)
        return f"its slices are {distances.min():.2f} to {distances.max():.2f} mm apart, not even"
    along = float(np.dot(step, frame.normal))
    if np.linalg.norm(step - along * frame.normal) > _UNEVEN * np.linalg.norm(step):
        return "its slices are tilted against the direction in which they are stacked"
    return ""


def _common_window(frames: Sequence[Frame]) -> Window | None:
    """The medians of the slices' centres and widths: one window, so that grey values can be compared between slices."""
    windows = [frame.window for frame in frames if frame.window is not None]
    if not windows:
        return None
    centre, width = (float(np.median([getattr(window, name) for window in windows])) for name in ("centre", "width"))
    return Window(centre, width, windows[0].function)
