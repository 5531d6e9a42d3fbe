"""Volumes become slices: orientation, spacing, range, choice of slices; NIfTI files."""

import sys
from pathlib import Path

import nibabel
import numpy as np
import pytest

from tests.data.importable import SPACING, cutting, omissions, phantom, pictures, save_nifti, seen, shades
from vaegan_pl.data.dicom import Window
from vaegan_pl.errors import UserError
from vaegan_pl.importing.nifti import NiftiReader
from vaegan_pl.importing.scan import Choosing, sources
from vaegan_pl.importing.slices import cut
from vaegan_pl.importing.volumes import Found, LeftOutError, Volume, canonical, closest

VOLUME = phantom()


@pytest.mark.parametrize("codes", ["RAS", "LAS", "LPS", "PIR", "ASL", "SPL", "IRA"])
def test_slices_look_the_same_however_a_volume_is_stored(tmp_path: Path, codes: str) -> None:
    path = save_nifti(tmp_path / "v.nii.gz", VOLUME, codes)
    assert "".join(nibabel.orientations.aff2axcodes(nibabel.load(path).affine)) == codes  # type: ignore[attr-defined]
    found = pictures(NiftiReader(path, None), plane="all")
    assert len(found) == sum(VOLUME.shape)
    for plane, n in zip(("sagittal", "coronal", "axial"), VOLUME.shape, strict=True):
        for number in (0, n // 2, n - 1):
            expected = shades(seen(VOLUME, plane, number), VOLUME)
            np.testing.assert_allclose(found[f"{plane}-{number:03d}"], expected, atol=1)


def test_the_right_front_and_head_are_where_radiologists_expect_them(tmp_path: Path) -> None:
    volume = np.zeros((20, 24, 18), np.int16)
    volume += np.arange(18, dtype=np.int16)  # so that it is no mask
    volume[18, 21, 16] = 5000  # right, front, head
    found = pictures(
        NiftiReader(save_nifti(tmp_path / "v.nii", volume, "PIR"), None), plane="all", highest=100, empty=0
    )
    places = {name: divmod(int(grey.argmax()), grey.shape[1]) for name, grey in found.items() if grey.max() == 255}
    assert places == {"axial-016": (2, 1), "coronal-021": (1, 1), "sagittal-018": (1, 2)}


@pytest.mark.parametrize("codes", ["RAS", "LIA", "PSR"])
def test_closest_axes_are_those_of_nibabel_also_for_oblique_volumes(codes: str) -> None:
    angle = np.radians(20)
    turn = np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]])
    orient = nibabel.orientations
    inverse = orient.inv_ornt_aff(orient.axcodes2ornt(codes), (20, 24, 18))[:3, :3]
    axes = turn @ np.linalg.inv(inverse) @ np.diag([0.9, 1.0, 3.0])
    affine = np.eye(4)
    affine[:3, :3] = axes
    stored = nibabel.Nifti1Image(VOLUME, affine)
    assert tuple(orient.io_orientation(affine)[:, 0].astype(int)) == closest(axes)
    values, spacing = canonical(Volume(VOLUME.astype(np.float32), axes, 2))
    expected = nibabel.as_closest_canonical(stored)
    assert np.array_equal(values, expected.get_fdata())
    np.testing.assert_allclose(spacing, expected.header.get_zooms(), rtol=1e-6)


def test_acquired_slices_are_those_along_the_third_axis_or_the_one_in_the_header(tmp_path: Path) -> None:
    path = save_nifti(tmp_path / "v.nii", VOLUME, "PIR")
    assert min(pictures(NiftiReader(path, None))) == "sagittal-000"
    image = nibabel.load(path)
    image.header.set_dim_info(slice=0)  # type: ignore[attr-defined]
    nibabel.save(image, tmp_path / "w.nii")
    assert min(pictures(NiftiReader(tmp_path / "w.nii", None))) == "coronal-000"


def test_pixels_are_square_and_as_large_as_the_smaller_spacing(tmp_path: Path) -> None:
    path = save_nifti(tmp_path / "v.nii", VOLUME, "RAS", (1.0, 1.5, 4.0))
    found = pictures(NiftiReader(path, None), plane="all")
    shapes = {name.partition("-")[0]: grey.shape for name, grey in found.items()}
    assert shapes == {"axial": (36, 20), "coronal": (72, 20), "sagittal": (48, 24)}  # 18 x 4 / 1.5 = 48
    rows = found["coronal-012"].astype(float).mean(1)
    assert (np.diff(rows) <= 1).all()  # brighter at the head, which is at the top: interpolated without a wave


def test_percentiles_of_the_volume_become_black_and_white(tmp_path: Path) -> None:
    path = save_nifti(tmp_path / "v.nii", VOLUME)
    found = np.stack(list(pictures(NiftiReader(path, None), lowest=10, highest=90).values()))
    assert [(found == 0).mean(), (found == 255).mean()] == pytest.approx([0.1, 0.1], abs=0.01)


def test_part_of_the_slices_and_every_nth(tmp_path: Path) -> None:
    reader = NiftiReader(save_nifti(tmp_path / "v.nii", VOLUME), None)
    names = [f"axial-{number:03d}" for number in range(18)]
    assert list(pictures(reader, every=5)) == names[::5]
    assert list(pictures(reader, first=0.25, last=0.75)) == names[4:14]  # 4.5 and 13.5
    assert list(pictures(reader, first=0.5, every=4)) == names[9::4]


def test_empty_slices_are_left_out(tmp_path: Path) -> None:
    volume = VOLUME.copy()
    volume[:, :, :5] = 0
    volume[:4, :3, 4] = 900  # 12 of 480 pixels
    reader = NiftiReader(save_nifti(tmp_path / "v.nii", volume), None)
    assert min(pictures(reader, empty=0.02)) == "axial-004"
    assert min(pictures(reader, empty=0.03)) == "axial-005"
    assert len(pictures(reader, empty=0)) == 18
    with pytest.raises(LeftOutError, match="all its slices are empty"):
        pictures(reader, last=0.2)


def test_one_of_several_volumes_is_taken_if_it_is_named(tmp_path: Path) -> None:
    several = np.stack([VOLUME, VOLUME[::-1]], axis=3)
    nibabel.save(nibabel.Nifti1Image(several, np.eye(4)), tmp_path / "v.nii.gz")
    with pytest.raises(LeftOutError, match="holds 2 volumes; volume=0 to 1 takes one"):
        pictures(NiftiReader(tmp_path / "v.nii.gz", None))
    with pytest.raises(LeftOutError, match="holds 2 volumes, no volume=2"):
        pictures(NiftiReader(tmp_path / "v.nii.gz", 2))
    found = pictures(NiftiReader(tmp_path / "v.nii.gz", 1))
    np.testing.assert_allclose(found["axial-009"], shades(seen(VOLUME[::-1], "axial", 9), VOLUME), atol=1)
    nibabel.save(nibabel.Nifti1Image(several[..., :1, None], np.eye(4)), tmp_path / "w.nii")
    assert len(pictures(NiftiReader(tmp_path / "w.nii", None))) == 18


def test_values_that_are_not_finite_are_black(tmp_path: Path) -> None:
    volume = VOLUME.astype(np.float32)
    volume[0, 0, 0], volume[1, 0, 0], volume[2, 0, 0] = np.nan, np.inf, -np.inf
    grey = pictures(NiftiReader(save_nifti(tmp_path / "v.nii", volume), None), lowest=0)["axial-000"]
    assert grey[-1, -3:].tolist() == [0, 0, 0]
    assert grey[-1, -4] > 0


def test_scale_factors_are_applied(tmp_path: Path) -> None:
    image = nibabel.Nifti1Image(VOLUME, np.eye(4))
    image.header.set_slope_inter(-2.0, 5000.0)
    nibabel.save(image, tmp_path / "v.nii")
    found = pictures(NiftiReader(tmp_path / "v.nii", None))["axial-003"]
    scaled = nibabel.load(tmp_path / "v.nii").get_fdata()  # type: ignore[attr-defined]
    np.testing.assert_allclose(found, shades(seen(scaled, "axial", 3), scaled), atol=1)


def test_without_an_orientation_slices_are_taken_as_stored(tmp_path: Path) -> None:
    reader = NiftiReader(save_nifti(tmp_path / "v.nii", VOLUME, code=0), None)
    assert min(pictures(reader)) == "slice-000"
    with pytest.raises(LeftOutError, match="its header has no orientation; plane=acquired"):
        pictures(reader, plane="axial")


def test_what_is_no_grey_volume_is_left_out_with_a_reason(tmp_path: Path) -> None:
    def reason(values: np.ndarray) -> str:
        nibabel.save(nibabel.Nifti1Image(values, np.eye(4)), tmp_path / "v.nii")
        with pytest.raises(LeftOutError) as left_out:
            pictures(NiftiReader(tmp_path / "v.nii", None))
        return str(left_out.value)

    assert reason((VOLUME > 500).astype(np.uint8)) == "a mask: at most 8 different values"
    assert "not grey" in reason(VOLUME.astype(np.complex64))
    assert "not grey" in reason(np.zeros((4, 4, 4), dtype=[("R", "u1"), ("G", "u1"), ("B", "u1")]))
    assert reason(np.zeros((4, 4, 4, 2, 2), np.int16)) == "4 x 4 x 4 x 2 x 2 values, not a volume"
    assert "has no contrast" in reason(np.full((4, 4, 4), 7.0, np.float32))
    assert reason(np.full((4, 4, 4), np.nan, np.float32)) == "holds no value"
    whole = bytearray(save_nifti(tmp_path / "v.nii", VOLUME).read_bytes())
    whole[312:328] = bytes(16)  # srow_z, the third row of the affine map
    (tmp_path / "v.nii").write_bytes(whole)
    with pytest.raises(LeftOutError, match="its voxels have no size"):
        pictures(NiftiReader(tmp_path / "v.nii", None))
    for name, content in (
        ("a.nii", b""),
        ("b.nii.gz", b"no gzip"),
        ("c.nii", save_nifti(tmp_path / "v.nii", VOLUME).read_bytes()[:5000]),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(LeftOutError, match="cannot be read"):
            pictures(NiftiReader(tmp_path / name, None))


def test_a_header_that_claims_gigabytes_is_left_out_before_it_is_decoded(tmp_path: Path) -> None:
    header = nibabel.Nifti1Header()
    header.set_data_dtype(np.int16)
    header.set_data_shape((2000, 2000, 2000))
    (tmp_path / "v.nii").write_bytes(header.binaryblock + bytes(4))
    with pytest.raises(LeftOutError, match="2000 x 2000 x 2000 values, more than 268,435,456"):
        pictures(NiftiReader(tmp_path / "v.nii", None))


def test_too_few_slices_for_another_plane() -> None:
    flat = Volume(VOLUME[:, :, :5].astype(np.float32), np.eye(3), 2)
    with pytest.raises(LeftOutError, match="only 5 slices, too few for coronal pictures"):
        list(cut(flat, cutting(plane="coronal")))
    assert omissions(lambda: iter([flat]), plane="all") == [
        "sagittal: only 5 slices, too few for sagittal pictures",
        "coronal: only 5 slices, too few for coronal pictures",
    ]


def test_pictures_that_would_be_huge_are_left_out() -> None:
    with pytest.raises(LeftOutError, match="make pictures of"):
        list(cut(Volume(VOLUME.astype(np.float32), np.diag([1e-6, 1.0, 1.0]), 2), cutting()))


@pytest.mark.parametrize(
    ("function", "width", "expected"),
    [
        ("LINEAR", 101, [0, 0, 0.5, 1, 1]),  # black up to 99.5 - 50, white from 99.5 + 50
        ("LINEAR_EXACT", 100, [0, 0, 0.5, 1, 1]),
        ("LINEAR", 1, [0, 0, 1, 1, 1]),
        ("SIGMOID", 100, [1 / (1 + np.exp(8)), 1 / (1 + np.exp(2)), 0.5, 1 / (1 + np.exp(-2)), 1 / (1 + np.exp(-8))]),
    ],
)
def test_windows(function: str, width: float, expected: list[float]) -> None:
    centre = 100.5 if function == "LINEAR" and width > 1 else 100
    values = np.array([-100, 50, 100, 150, 300], dtype=np.float32)
    np.testing.assert_allclose(Window(centre, width, function)(values), expected, atol=1e-6)


def test_mgh_files_are_read(tmp_path: Path) -> None:
    nibabel.save(nibabel.MGHImage(VOLUME.astype(np.float32), np.diag([*SPACING, 1.0])), tmp_path / "v.mgz")
    found = pictures(NiftiReader(tmp_path / "v.mgz", None), plane="axial")
    np.testing.assert_allclose(found["axial-007"], shades(seen(VOLUME, "axial", 7), VOLUME), atol=1)


def test_without_nibabel_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.nii").touch()
    monkeypatch.setitem(sys.modules, "nibabel", None)
    with pytest.raises(UserError, match=r"a.nii: reading NIfTI needs nibabel; pip install -e '.\[nifti\]'"):
        sources([Found("a.nii", tmp_path / "a.nii")], Choosing([], None, None, None, cutting()))
