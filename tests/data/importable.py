"""Files to import: phantom volumes with an orientation, as NIfTI and as DICOM series."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
from pydicom import Dataset
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage, generate_uid

from vaegan_pl.importing.slices import Cutting, cut
from vaegan_pl.importing.volumes import LeftOut, Picture, Reader, Volume

SPACING = (1.0, 1.0, 1.0)

ORIENTATIONS = {
    "axial": (1, 0, 0, 0, 1, 0),
    "coronal": (1, 0, 0, 0, 0, -1),
    "sagittal": (0, 1, 0, 0, 0, -1),
}
"""ImageOrientationPatient of slices that are stored as they are seen."""


def phantom(shape: tuple[int, int, int] = (20, 24, 18), seed: int = 0, noise: int = 40) -> np.ndarray:
    """A volume in RAS+ orientation without any symmetry: brighter to the right, front and head, and noisy.

    With little noise, slices of two volumes are near-copies of each other.
    """
    x, y, z = np.meshgrid(*map(np.arange, shape), indexing="ij")
    added = np.random.default_rng(seed).integers(0, noise, shape)
    return np.asarray(200 + 20 * x + 15 * y + 10 * z + added, dtype=np.int16)


def seen(volume: np.ndarray, plane: str, number: int) -> np.ndarray:
    """The slice of a volume in RAS+ orientation as radiologists see it, written out for each plane."""
    x, y, z = volume.shape
    if plane == "axial":  # the front at the top, the right on the left
        return np.array([[volume[x - 1 - c, y - 1 - r, number] for c in range(x)] for r in range(y)])
    if plane == "coronal":  # the head at the top, the right on the left
        return np.array([[volume[x - 1 - c, number, z - 1 - r] for c in range(x)] for r in range(z)])
    return np.array(
        [[volume[number, y - 1 - c, z - 1 - r] for c in range(y)] for r in range(z)]
    )  # the front on the left


def shades(values: np.ndarray, volume: np.ndarray, low: float = 0.5, high: float = 99.5) -> np.ndarray:
    """Grey values between percentiles of a volume."""
    first, last = np.percentile(volume, [low, high])
    return np.asarray((255 * ((values - first) / (last - first)).clip(0, 1)).round())


def save_nifti(
    path: Path, volume: np.ndarray, codes: str = "RAS", spacing: tuple[float, ...] = SPACING, code: int = 1
) -> Path:
    """A volume in RAS+ orientation, stored in another one."""
    image: Any = nibabel.Nifti1Image(volume, np.diag([*spacing, 1.0]))
    image.set_sform(image.affine, code)
    image.set_qform(image.affine, code)
    orient = nibabel.orientations
    change = orient.ornt_transform(orient.axcodes2ornt("RAS"), orient.axcodes2ornt(codes))
    image = image.as_reoriented(change)
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(image, path)
    return path


def dataset(path: Path, pixels: np.ndarray, elements: Mapping[str, Any]) -> Path:
    """A DICOM file of MR."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = elements.get("SOPClassUID", MRImageStorage)
    meta.MediaStorageSOPInstanceUID = generate_uid()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    file = FileDataset(path, {}, file_meta=meta, preamble=b"\0" * 128)
    file.SOPClassUID, file.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
    file.Modality, file.PhotometricInterpretation, file.SamplesPerPixel = "MR", "MONOCHROME2", 1
    file.Rows, file.Columns = pixels.shape[-2:]
    file.BitsAllocated = file.BitsStored = 16
    file.HighBit, file.PixelRepresentation = 15, int(pixels.dtype.kind == "i")
    if pixels.ndim == 3:
        file.NumberOfFrames = len(pixels)
    for name, value in elements.items():
        setattr(file, name, value)
    file.PixelData = np.ascontiguousarray(pixels).tobytes()
    path.parent.mkdir(parents=True, exist_ok=True)
    file.save_as(path, enforce_file_format=True)
    return path


def item(**elements: Any) -> Dataset:
    """An item of a sequence."""
    found = Dataset()
    for name, value in elements.items():
        setattr(found, name, value)
    return found


def position(shape: tuple[int, ...], plane: str, number: int, spacing: tuple[float, ...] = SPACING) -> list[float]:
    """ImagePositionPatient of a slice that is stored as it is seen; DICOM counts to the left and back."""
    x, y, z = (n - 1 for n in shape)
    ras = {"axial": (x, y, number), "coronal": (x, number, z), "sagittal": (number, y, z)}[plane]
    return [-ras[0] * spacing[0], -ras[1] * spacing[1], ras[2] * spacing[2]]


def save_series(
    folder: Path,
    volume: np.ndarray,
    plane: str = "axial",
    spacing: tuple[float, float, float] = SPACING,
    shuffle: bool = True,
    **elements: Any,
) -> Path:
    """A volume in RAS+ orientation as a series, with file names and instance numbers in another order."""
    axis = ("sagittal", "coronal", "axial").index(plane)
    across, down = (other for other in range(3) if other != axis)
    common = {
        "SeriesInstanceUID": generate_uid(),
        "StudyInstanceUID": generate_uid(),
        "PatientID": "MRN-4711",
        "PatientName": "Doe^Jane",
        "ImageOrientationPatient": list(ORIENTATIONS[plane]),
        "PixelSpacing": [spacing[down], spacing[across]],
        "SliceThickness": spacing[axis],
    }
    n = volume.shape[axis]
    order = np.random.default_rng(1).permutation(n) if shuffle else np.arange(n)
    for number, other in enumerate(order.tolist()):
        own = {"ImagePositionPatient": position(volume.shape, plane, number, spacing), "InstanceNumber": other + 1}
        dataset(
            folder / f"IM{other:04d}", seen(volume, plane, number).astype(volume.dtype), {**common, **own, **elements}
        )
    return folder


def cutting(**changes: Any) -> Cutting:
    """The command's defaults, with changes."""
    options = {
        "plane": "acquired",
        "first": 0.0,
        "last": 1.0,
        "every": 1,
        "lowest": 0.5,
        "highest": 99.5,
        "empty": 0.02,
    }
    return Cutting(**{**options, "window": True, **changes})


def pictures(reader: Reader, **changes: Any) -> dict[str, np.ndarray]:
    """The pictures of a source by their names."""
    found = [
        picture
        for part in reader()
        for picture in (cut(part, cutting(**changes)) if isinstance(part, Volume) else [part])
    ]
    return {part.name: part.grey for part in found if isinstance(part, Picture)}


def omissions(reader: Reader, **changes: Any) -> list[str]:
    """The reasons for which parts of a source are left out."""
    found = [
        part
        for whole in reader()
        for part in (cut(whole, cutting(**changes)) if isinstance(whole, Volume) else [whole])
    ]
    return [part.reason for part in found if isinstance(part, LeftOut)]
