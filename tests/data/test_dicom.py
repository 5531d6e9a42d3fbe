import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom import Dataset
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.pixels.processing import apply_voi_lut
from pydicom.uid import ExplicitVRLittleEndian, JPEG2000Lossless, MRImageStorage, generate_uid

from vaegan_pl.data.images import UNREADABLE, read_grey
from vaegan_pl.errors import UserError

RAMP = np.arange(0, 4096, 16, dtype=np.uint16).reshape(16, 16)


def slice_file(path: Path, pixels: np.ndarray = RAMP, /, **elements: Any) -> Path:
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = MRImageStorage
    meta.MediaStorageSOPInstanceUID = generate_uid()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset = FileDataset(path, {}, file_meta=meta, preamble=b"\0" * 128)
    dataset.SOPClassUID, dataset.SOPInstanceUID = MRImageStorage, meta.MediaStorageSOPInstanceUID
    dataset.PhotometricInterpretation, dataset.SamplesPerPixel = "MONOCHROME2", 1
    dataset.Rows, dataset.Columns = pixels.shape[-2:]
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 16, 12, 11
    dataset.PixelRepresentation = int(pixels.dtype.kind == "i")
    for name, value in elements.items():
        setattr(dataset, name, value)
    dataset.PixelData = pixels.tobytes()
    dataset.save_as(path, enforce_file_format=True)
    return path


def read(path: Path) -> np.ndarray:
    return read_grey(path, 65535, "fixed")


def test_without_a_window_the_slices_own_range_is_shown(tmp_path: Path) -> None:
    shown = read(slice_file(tmp_path / "a.dcm", RAMP // 2 + 100))
    assert shown.dtype == np.uint8
    assert shown.ravel().tolist() == list(range(256))


def test_monochrome1_is_inverted(tmp_path: Path) -> None:
    shown = read(slice_file(tmp_path / "a.dcm", PhotometricInterpretation="MONOCHROME1"))
    assert shown.ravel().tolist() == list(range(255, -1, -1))


@pytest.mark.parametrize("function", ["LINEAR", "LINEAR_EXACT", "SIGMOID", None])
@pytest.mark.parametrize(("slope", "intercept"), [(1, 0), (2, -1000)])
def test_windows_agree_with_pydicom(tmp_path: Path, function: str | None, slope: int, intercept: int) -> None:
    """pydicom's own windowing, scaled from its output range, is the independent source."""
    elements: dict[str, Any] = {"WindowCenter": 2000, "WindowWidth": 1500}
    if slope != 1:
        elements |= {"RescaleSlope": slope, "RescaleIntercept": intercept}
    if function:
        elements["VOILUTFunction"] = function
    path = slice_file(tmp_path / "a.dcm", **elements)
    dataset = Dataset()
    for name, value in elements.items():
        setattr(dataset, name, value)
    dataset.PhotometricInterpretation, dataset.BitsStored, dataset.PixelRepresentation = "MONOCHROME2", 12, 0
    low, high = intercept, 4095 * slope + intercept
    windowed = apply_voi_lut(RAMP.astype(np.float64) * slope + intercept, dataset)
    np.testing.assert_allclose(read(path), 255 * (windowed - low) / (high - low), atol=0.51)
    assert len(np.unique(read(path))) > 20


def test_the_first_of_several_windows_is_taken(tmp_path: Path) -> None:
    one = read(slice_file(tmp_path / "a.dcm", WindowCenter=1000, WindowWidth=500))
    two = read(slice_file(tmp_path / "b.dcm", WindowCenter=[1000, 3000], WindowWidth=[500, 100]))
    assert np.array_equal(one, two)


def test_a_window_of_width_1_is_a_step(tmp_path: Path) -> None:
    shown = read(slice_file(tmp_path / "a.dcm", WindowCenter=2048, WindowWidth=1))
    assert shown.ravel().tolist() == [0] * 128 + [255] * 128


@pytest.mark.parametrize("function", ["LINEAR", "LINEAR_EXACT", "SIGMOID"])
def test_a_window_without_width_counts_as_none(tmp_path: Path, function: str) -> None:
    shown = read(slice_file(tmp_path / "a.dcm", WindowCenter=1, WindowWidth=0, VOILUTFunction=function))
    assert shown.ravel().tolist() == list(range(256))


def test_a_look_up_table_is_applied(tmp_path: Path) -> None:
    table = Dataset()
    table.LUTDescriptor = [4096, 0, 16]
    table.add_new(
        "LUTData", "OW", np.array([257 * (255 - value // 16) for value in range(4096)], dtype=np.uint16).tobytes()
    )
    shown = read(slice_file(tmp_path / "a.dcm", VOILUTSequence=[table]))
    assert shown.ravel().tolist() == list(range(255, -1, -1))


@pytest.mark.parametrize("kind", ["MONOCHROME1", "MONOCHROME2"])
def test_signed_values_and_padding(tmp_path: Path, kind: str) -> None:
    pixels = RAMP.astype(np.int16) - 1000
    pixels[0, :8] = -2048
    path = slice_file(
        tmp_path / "a.dcm",
        pixels,
        PixelPaddingValue=-2048,
        PhotometricInterpretation=kind,
        BitsStored=16,
        HighBit=15,
    )
    shown = read(path)
    assert (shown[0, :8] == 0).all()
    assert sorted({int(shown[0, 8]), int(shown[-1, -1])}) == [0, 255]


@pytest.mark.parametrize(
    "elements",
    [
        {"WindowCenter": None, "WindowWidth": None},
        {"WindowCenter": 2000},
        {"WindowCenter": "", "WindowWidth": ""},
        {"VOILUTSequence": []},
    ],
)
def test_empty_elements_count_as_absent(tmp_path: Path, elements: dict[str, Any]) -> None:
    assert read(slice_file(tmp_path / "a.dcm", **elements)).ravel().tolist() == list(range(256))


def test_a_centre_of_0_is_a_centre(tmp_path: Path) -> None:
    elements = {"RescaleSlope": 1, "RescaleIntercept": -2048, "WindowCenter": 0, "WindowWidth": 1}
    assert read(slice_file(tmp_path / "a.dcm", **elements)).ravel().tolist() == [0] * 128 + [255] * 128


def test_a_range_of_padding_is_black(tmp_path: Path) -> None:
    shown = read(slice_file(tmp_path / "a.dcm", PixelPaddingValue=4000, PixelPaddingRangeLimit=4095))
    assert (shown.ravel()[250:] == 0).all()
    assert shown.ravel()[249] == 255


def test_damaged_elements_are_unreadable_whatever_the_decoder_raises(tmp_path: Path) -> None:
    whole = bytearray(slice_file(tmp_path / "a.dcm", WindowCenter=2000, WindowWidth=1000).read_bytes())
    random = np.random.default_rng(0)
    unreadable = 0
    for _ in range(300):
        damaged = whole.copy()
        for position in random.integers(132, len(whole) - RAMP.nbytes, 3):
            damaged[position] = random.integers(256)
        (tmp_path / "b.dcm").write_bytes(damaged)
        try:
            assert read(tmp_path / "b.dcm").dtype == np.uint8
        except UNREADABLE:
            unreadable += 1
    assert 0 < unreadable < 300


def test_a_slice_of_one_value_is_black(tmp_path: Path) -> None:
    assert (read(slice_file(tmp_path / "a.dcm", np.full((4, 4), 77, np.uint16))) == 0).all()


def test_what_is_no_single_grey_slice_is_unreadable_with_a_reason(tmp_path: Path) -> None:
    several = slice_file(tmp_path / "frames.dcm", np.stack([RAMP, RAMP]), NumberOfFrames=2)
    with pytest.raises(ValueError, match=r"2 frames; python -m vaegan_pl\.import_images splits it"):
        read(several)
    (tmp_path / "text.dcm").write_bytes(b"no DICOM")
    whole = slice_file(tmp_path / "whole.dcm").read_bytes()
    (tmp_path / "half.dcm").write_bytes(whole[: len(whole) // 2])
    compressed = slice_file(tmp_path / "compressed.dcm").read_bytes()
    uid = ExplicitVRLittleEndian.encode()
    (tmp_path / "compressed.dcm").write_bytes(compressed.replace(uid, JPEG2000Lossless.encode()[: len(uid)]))
    for name in ("text", "half", "compressed"):
        with pytest.raises(UNREADABLE):
            read(tmp_path / f"{name}.dcm")


def test_without_pydicom_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = slice_file(tmp_path / "a.dcm")
    monkeypatch.setitem(sys.modules, "pydicom", None)
    with pytest.raises(UserError, match=r"a.dcm: reading DICOM needs pydicom; pip install -e '.\[dicom\]'"):
        read(path)


def test_a_slice_that_claims_gigabytes_is_refused_by_its_size(tmp_path: Path) -> None:
    path = slice_file(tmp_path / "a.dcm")
    whole = path.read_bytes()
    rows = whole.index(b"\x28\x00\x10\x00US")  # (0028,0010), of two bytes
    columns = whole.index(b"\x28\x00\x11\x00US")
    changed = bytearray(whole)
    for at in (rows, columns):
        changed[at + 8 : at + 10] = (60_000).to_bytes(2, "little")
    path.write_bytes(bytes(changed))
    with pytest.raises(UNREADABLE, match="60000 x 60000 pixels, more than 67108864"):
        read(path)
