"""Which stored values become black to white: by hand, for each range and kind of file."""

import logging
import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, TiffImagePlugin
from pydicom.uid import generate_uid

from vaegan_pl.data.dicom import Window, series_windows
from vaegan_pl.data.grey import own_range
from vaegan_pl.data.images import read_file, read_grey, warnings_in_one_line

from .test_dicom import RAMP, slice_file

WHITE = 65535


def tiff(path: Path, pixels: np.ndarray, **tags: int) -> Path:
    """A TIFF with other tags than Pillow writes for such pixels."""
    info = TiffImagePlugin.ImageFileDirectory_v2()
    Image.fromarray(pixels).save(path, tiffinfo=info)
    codes = {"photometric": 262, "sample_format": 339}
    content = bytearray(path.read_bytes())
    for name, value in tags.items():
        entry = codes[name].to_bytes(2, "little") + b"\x03\x00\x01\x00\x00\x00"
        if entry in content:
            at = content.index(entry) + 8
            content[at : at + 2] = value.to_bytes(2, "little")
        else:
            info[codes[name]] = value
            Image.fromarray(pixels).save(path, tiffinfo=info)
            content = bytearray(path.read_bytes())
    path.write_bytes(content)
    return path


def test_ranges_of_a_16_bit_file_by_hand(tmp_path: Path) -> None:
    values = np.array([[1000, 1500, 2000, 3000]], dtype=np.uint16)
    Image.fromarray(values).save(tmp_path / "a.png")
    assert read_grey(tmp_path / "a.png", 4000, "fixed").tolist() == [[64, 96, 128, 191]]
    assert read_grey(tmp_path / "a.png", 4000, "series").tolist() == [[64, 96, 128, 191]]
    assert read_grey(tmp_path / "a.png", 4000, "file").tolist() == [[0, 64, 128, 255]]
    # Linear interpolation: 0.5 % of the three steps is 0.015 of the first, and 99.5 % is 0.985 of the last.
    low, high = 1000 + 0.015 * 500, 2000 + 0.985 * 1000
    expected = [round(255 * min(max((v - low) / (high - low), 0), 1)) for v in (1000, 1500, 2000, 3000)]
    assert read_grey(tmp_path / "a.png", 4000, "percentile").tolist() == [expected]


def test_8_bit_values_are_kept_by_every_range(tmp_path: Path) -> None:
    Image.fromarray(np.array([[10, 20]], dtype=np.uint8)).save(tmp_path / "a.png")
    for range_ in ("fixed", "file", "percentile", "series"):
        assert read_grey(tmp_path / "a.png", WHITE, range_).tolist() == [[10, 20]]


def test_a_range_is_never_empty() -> None:
    mostly = np.array([5.0] * 999 + [9.0])
    assert own_range(mostly, "percentile") == (5.0, 9.0)
    assert own_range(np.array([]), "file") == (0.0, 1.0)


@pytest.mark.parametrize("values", [np.array([[-1000, 0, 1000]]), np.array([[-0.5, 0.25, 1.0]])])
def test_negative_values_and_floats_need_a_range_of_their_own(tmp_path: Path, values: np.ndarray) -> None:
    Image.fromarray(values.astype(np.float32 if values.dtype == float else np.int32)).save(tmp_path / "a.tif")
    assert read_grey(tmp_path / "a.tif", WHITE, "file").tolist() == [[0, 128, 255]]
    with pytest.raises(ValueError, match=r"or train with data\.range=percentile"):
        read_grey(tmp_path / "a.tif", WHITE, "fixed")


def test_a_tiff_in_which_0_is_white_is_inverted(tmp_path: Path) -> None:
    deep = tiff(tmp_path / "a.tif", np.array([[0, 257, 65535]], dtype=np.uint16), photometric=0)
    assert read_grey(deep, WHITE, "fixed").tolist() == [[255, 254, 0]]
    eight = tiff(tmp_path / "b.tif", np.array([[0, 1, 255]], dtype=np.uint8), photometric=0)
    assert read_grey(eight, WHITE, "fixed").tolist() == [[255, 254, 0]]


def test_signed_8_bit_values_do_not_wrap(tmp_path: Path) -> None:
    signed = np.array([[-128, -1, 0, 127]], dtype=np.int8)
    path = tiff(tmp_path / "a.tif", signed.view(np.uint8), sample_format=2)
    assert read_grey(path, WHITE, "fixed").tolist() == [[0, 127, 128, 255]]


def test_what_is_known_of_a_file_besides_its_grey_values(tmp_path: Path) -> None:
    Image.fromarray(np.array([[0, 4095, 17]], dtype=np.uint16)).save(tmp_path / "deep.png")
    Image.fromarray(np.array([[0, 1], [1, 0]], dtype=np.uint16)).save(tmp_path / "mask.png")
    Image.new("RGB", (10, 10), (200, 100, 50)).save(tmp_path / "colour.png")
    Image.new("RGB", (10, 10), (90, 90, 90)).save(tmp_path / "grey.jpg")
    found = {path.stem: read_file(path, WHITE, "fixed", None) for path in tmp_path.iterdir()}
    assert {name: (image.peak, image.levels, image.coloured) for name, image in found.items()} == {
        "deep": (4095, 3, False),
        "mask": (1, 2, False),
        "colour": (0, 1, True),
        "grey": (0, 1, False),
    }


def test_dicom_ranges_by_hand(tmp_path: Path) -> None:
    path = slice_file(tmp_path / "a.dcm", WindowCenter=100, WindowWidth=50)
    assert read_grey(path, WHITE, "file").ravel().tolist() == list(range(256))  # 0 to 4080 in steps of 16
    low, high = np.quantile(RAMP, [0.005, 0.995])
    expected = (255 * ((RAMP - low) / (high - low)).clip(0, 1)).round()
    assert read_grey(path, WHITE, "percentile").tolist() == expected.tolist()


def test_a_series_has_the_median_of_its_windows(tmp_path: Path) -> None:
    uid, other = generate_uid(), generate_uid()
    paths = [
        slice_file(tmp_path / f"{i}.dcm", SeriesInstanceUID=uid, WindowCenter=centre, WindowWidth=width)
        for i, (centre, width) in enumerate([(100, 50), (200, 400), (900, 300)])
    ]
    alone = slice_file(tmp_path / "alone.dcm", SeriesInstanceUID=other, WindowCenter=7, WindowWidth=9)
    found = series_windows([*paths, alone, tmp_path / "x.png"])
    assert found == {**dict.fromkeys(paths, Window(200, 300, "LINEAR")), alone: Window(7, 9, "LINEAR")}
    shown = [read_file(path, WHITE, "series", found[path]).grey.tolist() for path in paths]
    assert shown[0] == shown[1] == shown[2]
    assert (
        shown[0]
        == read_grey(slice_file(tmp_path / "b.dcm", WindowCenter=200, WindowWidth=300), WHITE, "fixed").tolist()
    )


def test_a_series_without_windows_has_the_percentiles_of_all_its_slices(tmp_path: Path) -> None:
    uid = generate_uid()
    dark = slice_file(tmp_path / "dark.dcm", RAMP // 8, SeriesInstanceUID=uid, WindowCenter=5, WindowWidth=0)
    bright = slice_file(tmp_path / "bright.dcm", RAMP, SeriesInstanceUID=uid)
    found = series_windows([dark, bright])
    low, high = np.quantile(np.concatenate([RAMP.ravel() // 8, RAMP.ravel()]), [0.005, 0.995])
    assert found[dark] == found[bright]
    assert found[dark].centre == pytest.approx((low + high) / 2)
    assert found[dark].width == pytest.approx(high - low)
    assert read_file(dark, WHITE, "series", found[dark]).grey.max() < 40


def test_a_missing_decoder_is_named_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_decoder(*_: object) -> None:
        raise RuntimeError(
            "Unable to decompress 'JPEG 2000 Image Compression (Lossless Only)' pixel data because all plugins are "
            "missing dependencies:\n\tgdcm - requires gdcm>=3.0.10\n\tpylibjpeg - requires pylibjpeg>=2.0"
        )

    path = slice_file(tmp_path / "a.dcm")
    monkeypatch.setattr("pydicom.dataset.Dataset.convert_pixel_data", no_decoder)
    with pytest.raises(ValueError, match=r"no installed library decodes JPEG 2000 .*; pip install") as raised:
        read_grey(path, WHITE, "fixed")
    assert "\n" not in str(raised.value)


def test_warnings_of_libraries_become_one_line(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING), warnings_in_one_line():
        warnings.warn("Invalid value\nfor VR UI", stacklevel=1)
        logging.getLogger("pydicom").warning("another")
        logging.getLogger("PIL.TiffImagePlugin").warning("a third")
    assert [record.getMessage() for record in caplog.records] == [
        "3 warnings while reading files, the first: Invalid value"
    ]


def test_a_git_lfs_pointer_says_what_to_run(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 7\n")
    with pytest.raises(ValueError, match="a Git LFS pointer, not the image itself; run git lfs pull"):
        read_grey(tmp_path / "a.png", WHITE, "fixed")


def test_a_jfif_file_is_a_jpeg(tmp_path: Path) -> None:
    Image.new("L", (8, 8), 77).save(tmp_path / "a.jfif", format="JPEG")
    assert np.unique(read_grey(tmp_path / "a.jfif", WHITE, "fixed")).tolist() == [77]
