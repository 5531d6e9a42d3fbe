import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from vaegan_pl.data.images import UNREADABLE, fit, read_grey, to_grey_values, to_unit_range

RAMP = np.arange(256, dtype=np.uint8).reshape(16, 16)


WHITE = 65535


def saved(image: Image.Image, path: Path) -> np.ndarray:
    image.save(path)
    return read_grey(path, WHITE, "fixed")


def test_grey_pixels_come_through_unchanged(tmp_path: Path) -> None:
    assert saved(Image.fromarray(RAMP), tmp_path / "a.png").tolist() == RAMP.tolist()


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_16_bit_values_keep_their_share_of_the_range(tmp_path: Path, suffix: str) -> None:
    sixteen = Image.fromarray(RAMP.astype(np.uint16) * 257)
    assert sixteen.mode.startswith("I;16")
    assert saved(sixteen, tmp_path / f"a.{suffix}").tolist() == RAMP.tolist()


def test_a_long_thin_image_takes_little_memory() -> None:
    fitted = fit(np.full((2, 200_000), 255, np.uint8), 16, "pad")
    assert fitted.tolist() == [[0] * 16] * 7 + [[255] * 16] + [[0] * 16] * 8


def test_files_of_several_pictures_are_refused(tmp_path: Path) -> None:
    pages = [Image.fromarray(RAMP), Image.fromarray(RAMP.T)]
    pages[0].save(tmp_path / "a.tif", save_all=True, append_images=pages[1:])
    with pytest.raises(ValueError, match="holds 2 images; save each"):
        read_grey(tmp_path / "a.tif", WHITE, "fixed")


def test_12_bit_values_in_16_bit_files_are_told_by_their_white(tmp_path: Path) -> None:
    twelve = np.array([[0, 1024, 2048, 4095, 5000]], dtype=np.uint16)
    Image.fromarray(twelve).save(tmp_path / "a.png")
    assert read_grey(tmp_path / "a.png", 4095, "fixed").tolist() == [[0, 64, 128, 255, 255]]
    assert read_grey(tmp_path / "a.png", WHITE, "fixed").tolist() == [[0, 4, 8, 16, 19]]


@pytest.mark.parametrize("values", [RAMP / 255.0, RAMP.astype(np.int32) * 4095, -RAMP.astype(np.int32) - 1])
def test_pixels_without_a_known_white_are_refused(tmp_path: Path, values: np.ndarray) -> None:
    Image.fromarray(values.astype(np.float32 if values.dtype == float else np.int32)).save(tmp_path / "a.tif")
    with pytest.raises(ValueError, match="save it with 8 or 16 bits"):
        read_grey(tmp_path / "a.tif", WHITE, "fixed")


def test_a_damaged_exif_block_is_among_what_callers_catch() -> None:
    assert issubclass(struct.error, UNREADABLE)


def test_colour_becomes_luma(tmp_path: Path) -> None:
    colour = Image.new("RGB", (16, 16), (200, 100, 50))
    expected = round(0.299 * 200 + 0.587 * 100 + 0.114 * 50)  # ITU-R 601
    assert np.unique(saved(colour, tmp_path / "rgb.png")).tolist() == [expected]


def test_palette_indices_are_looked_up(tmp_path: Path) -> None:
    image = Image.new("P", (16, 16), 1)
    image.putpalette([0, 0, 0, 180, 180, 180])
    assert np.unique(saved(image, tmp_path / "p.png")).tolist() == [180]


def test_transparency_is_laid_over_black(tmp_path: Path) -> None:
    half = Image.new("RGBA", (16, 16), (200, 200, 200, 128))
    assert np.unique(saved(half, tmp_path / "rgba.png")).tolist() == [round(200 * 128 / 255)]
    clear = Image.new("LA", (16, 16), (255, 0))
    assert np.unique(saved(clear, tmp_path / "la.png")).tolist() == [0]


def test_cmyk_is_inverted_ink(tmp_path: Path) -> None:
    ink = Image.new("CMYK", (16, 16), (0, 0, 0, 55))
    assert np.unique(saved(ink, tmp_path / "cmyk.tif")).tolist() == [200]


def test_bilevel_is_black_and_white(tmp_path: Path) -> None:
    image = Image.fromarray(RAMP > 127)
    assert np.unique(saved(image, tmp_path / "1.png")).tolist() == [0, 255]


def test_exif_orientation_is_applied(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 3  # turned by 180 degrees
    Image.fromarray(RAMP).save(tmp_path / "a.png", exif=exif)
    assert read_grey(tmp_path / "a.png", WHITE, "fixed").tolist() == RAMP[::-1, ::-1].tolist()


def test_resizing_is_antialiased() -> None:
    stripes = np.tile(np.array([0, 255], dtype=np.uint8), (128, 64))
    inner = fit(stripes, 16, "squash")[:, 1:-1].astype(float)
    assert np.abs(inner - 127.5).max() < 3  # picking single pixels would give 0 or 255


def test_padding_keeps_proportions_and_squashing_fills() -> None:
    wide = np.full((8, 16), 200, dtype=np.uint8)
    padded = fit(wide, 16, "pad")
    assert padded.tolist() == [[0] * 16] * 4 + [[200] * 16] * 8 + [[0] * 16] * 4
    assert np.array_equal(fit(wide.T, 16, "pad"), padded.T)
    assert fit(wide, 16, "squash").tolist() == [[200] * 16] * 16
    square = RAMP
    assert np.array_equal(fit(square, 16, "pad"), square)


@pytest.mark.parametrize("content", [b"", b"no image at all", "half a png"])
def test_broken_files_raise_what_callers_catch(tmp_path: Path, content: bytes | str) -> None:
    path = tmp_path / "a.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64), dtype=np.uint8)).save(path)
    path.write_bytes(path.read_bytes()[:2000] if isinstance(content, str) else content)
    with pytest.raises(UNREADABLE):
        read_grey(path, WHITE, "fixed")


def test_unit_range_by_hand_and_back() -> None:
    grey = torch.tensor([0, 51, 255], dtype=torch.uint8)
    torch.testing.assert_close(to_unit_range(grey), torch.tensor([-1.0, -0.6, 1.0]))
    everything = torch.arange(256, dtype=torch.uint8)
    assert torch.equal(to_grey_values(to_unit_range(everything)), everything)
    assert to_grey_values(torch.tensor([-3.0, 3.0])).tolist() == [0, 255]


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize(("width", "height"), [(8193, 8193), (10**5, 10**5), (2**31 - 1, 1)])
def test_a_few_bytes_that_claim_gigabytes_are_refused_by_their_size(
    tmp_path: Path, width: int, height: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    path = tmp_path / "bomb.png"
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b""))
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", lambda _: pytest.fail("it was decoded"))
    with pytest.raises(UNREADABLE, match="pixels"):
        read_grey(path, 65535, "fixed")


def test_a_program_called_an_image_is_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pillow hands PostScript to Ghostscript, whatever the file is called."""
    (tmp_path / "gs").write_text(f"#!/bin/sh\ntouch {tmp_path}/executed\n")
    (tmp_path / "gs").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    path = tmp_path / "a.png"
    path.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\nshowpage\n%%EOF\n")
    with pytest.raises(UNREADABLE):
        read_grey(path, 65535, "fixed")
    assert not (tmp_path / "executed").exists()


def test_whatever_a_decoder_raises_is_among_what_callers_catch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As Pillow does for a TIFF without dimensions: a TypeError."""
    path = tmp_path / "a.tif"
    Image.new("L", (8, 8)).save(path)
    data = path.read_bytes()
    path.write_bytes(data.replace(struct.pack("<HHI", 256, 4, 1), struct.pack("<HHI", 65000, 4, 1), 1))
    with pytest.raises(UNREADABLE):
        read_grey(path, 65535, "fixed")
    monkeypatch.setattr(Image, "open", lambda *_, **__: (_ for _ in ()).throw(KeyError("tag")))
    with pytest.raises(ValueError, match="not an image that can be read: 'tag'"):
        read_grey(path, 65535, "fixed")
