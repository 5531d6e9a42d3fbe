"""DICOM series become slices."""

import re
import sys
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pydicom
import pytest
from pydicom import Dataset
from pydicom.uid import EnhancedMRImageStorage, generate_uid

from tests.data.importable import (
    ORIENTATIONS,
    cutting,
    dataset,
    item,
    omissions,
    phantom,
    pictures,
    position,
    save_nifti,
    save_series,
    seen,
    shades,
)
from vaegan_pl.errors import UserError
from vaegan_pl.importing import dicom_headers, scan
from vaegan_pl.importing.dicom_series import SeriesReader
from vaegan_pl.importing.labelling import Source
from vaegan_pl.importing.listing import files_below
from vaegan_pl.importing.nifti import NiftiReader
from vaegan_pl.importing.volumes import LeftOutError

VOLUME = phantom()


def reader(folder: Path, number: int | None = None) -> SeriesReader:
    return SeriesReader(tuple(files_below(folder)), number)


@pytest.mark.parametrize("plane", ["axial", "coronal", "sagittal"])
@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (0.8, 1.2, 2.0)])
def test_a_series_gives_the_same_pictures_as_the_same_volume_in_nifti(
    tmp_path: Path, plane: str, spacing: tuple[float, float, float]
) -> None:
    series = pictures(reader(save_series(tmp_path / "series", VOLUME, plane, spacing)), plane="all")
    stored = save_nifti(tmp_path / "v.nii.gz", VOLUME, "LPS", spacing)
    expected = pictures(NiftiReader(stored, None), plane="all")
    assert series.keys() == expected.keys()
    assert all(np.array_equal(grey, expected[name]) for name, grey in series.items())


def test_slices_are_sorted_by_position_whatever_files_and_instance_numbers_say(tmp_path: Path) -> None:
    found = pictures(reader(save_series(tmp_path / "series", VOLUME)))
    assert list(found) == [f"axial-{number:03d}" for number in range(18)]
    for number in (0, 5, 17):
        np.testing.assert_allclose(found[f"axial-{number:03d}"], shades(seen(VOLUME, "axial", number), VOLUME), atol=1)


def test_slices_of_a_patient_who_lies_on_the_front_are_turned(tmp_path: Path) -> None:
    """Prone: columns count to the right and rows to the front; nothing else changes."""
    for number in range(18):
        elements = {"ImageOrientationPatient": [-1, 0, 0, 0, -1, 0], "ImagePositionPatient": [0, 0, number]}
        dataset(tmp_path / "s" / str(number), np.ascontiguousarray(VOLUME[:, :, number].T), elements)
    np.testing.assert_allclose(
        pictures(reader(tmp_path / "s"))["axial-011"], shades(seen(VOLUME, "axial", 11), VOLUME), atol=1
    )


def test_without_positions_instance_numbers_decide_and_slices_are_as_stored(tmp_path: Path) -> None:
    for number in range(18):
        elements = {"InstanceNumber": 20 - number}
        dataset(tmp_path / "s" / f"{number:02d}", VOLUME[:, :, number], elements)
    found = pictures(reader(tmp_path / "s"))
    assert list(found)[:2] == ["slice-000", "slice-001"]
    np.testing.assert_allclose(found["slice-000"], shades(VOLUME[:, :, 17], VOLUME), atol=1)
    with pytest.raises(LeftOutError, match="do not say how the patient lies"):
        pictures(reader(tmp_path / "s"), plane="axial")


def test_one_window_for_the_whole_series_the_median_of_its_slices(tmp_path: Path) -> None:
    folder = save_series(tmp_path / "s", VOLUME, shuffle=False)
    for i, path in enumerate(sorted(folder.iterdir())):
        slice_ = pydicom.dcmread(path)
        slice_.WindowCenter, slice_.WindowWidth = [600 + 10 * (i - 8), 1], [401, 1]
        if i == 17:
            slice_.WindowWidth = 0  # no window at all; the median is that of the first 17
        slice_.save_as(path)
    found = pictures(reader(folder))
    expected = (255 * ((VOLUME.astype(float) - 599.5) / 400 + 0.5).clip(0, 1)).round()
    for number in (0, 9, 17):
        np.testing.assert_allclose(found[f"axial-{number:03d}"], seen(expected, "axial", number), atol=1)
    without = pictures(reader(folder), window=False)["axial-009"]
    np.testing.assert_allclose(without, shades(seen(VOLUME, "axial", 9), VOLUME), atol=1)


def test_monochrome1_is_inverted_and_padding_is_black(tmp_path: Path) -> None:
    volume = VOLUME.copy()
    volume[0, 0] = -2000  # the corner on the right below
    found = pictures(
        reader(save_series(tmp_path / "s", volume, PhotometricInterpretation="MONOCHROME1", PixelPaddingValue=-2000))
    )["axial-004"]
    known = volume[volume > -2000]
    expected = 255 - shades(seen(volume, "axial", 4), known)
    expected[-1, -1] = 0
    np.testing.assert_allclose(found, expected, atol=1)


def test_slope_and_intercept_may_differ_between_slices(tmp_path: Path) -> None:
    folder = save_series(tmp_path / "s", VOLUME, shuffle=False)
    for i, path in enumerate(sorted(folder.iterdir())):
        slice_ = pydicom.dcmread(path)
        slope = 1 + i % 3
        slice_.RescaleSlope, slice_.RescaleIntercept = slope, -100
        slice_.PixelData = ((slice_.pixel_array + 100) // slope).astype(np.int16).tobytes()
        slice_.save_as(path)
    found = pictures(reader(folder))
    np.testing.assert_allclose(found["axial-010"], shades(seen(VOLUME, "axial", 10), VOLUME), atol=2)


def enhanced(path: Path, order: list[int], places: list[int]) -> Path:
    """An enhanced multi-frame image of slices in some order, at some places, with a slope and an intercept of each."""
    frames = []
    for i, place in zip(order, places, strict=True):
        transformation = item(RescaleSlope=1 + i % 2, RescaleIntercept=-i, RescaleType="US")
        place_ = item(ImagePositionPatient=position(VOLUME.shape, "axial", place, (1, 1, 2)))
        frames.append(item(PixelValueTransformationSequence=[transformation], PlanePositionSequence=[place_]))
    shared = item(
        PlaneOrientationSequence=[item(ImageOrientationPatient=list(ORIENTATIONS["axial"]))],
        PixelMeasuresSequence=[item(PixelSpacing=[1, 1], SliceThickness=2)],
    )
    stored = np.stack([(seen(VOLUME, "axial", i) + i) // (1 + i % 2) for i in order]).astype(np.int16)
    elements = {"SharedFunctionalGroupsSequence": [shared], "PerFrameFunctionalGroupsSequence": frames}
    return dataset(path, stored, {"SOPClassUID": EnhancedMRImageStorage, **elements})


def test_frames_of_enhanced_images_have_positions_slopes_and_intercepts_of_their_own(tmp_path: Path) -> None:
    order = np.random.default_rng(2).permutation(18).tolist()
    enhanced(tmp_path / "s" / "enhanced.dcm", order, order)
    found = pictures(reader(tmp_path / "s"))
    assert len(found) == 18
    for number in (0, 7, 17):
        np.testing.assert_allclose(found[f"axial-{number:03d}"], shades(seen(VOLUME, "axial", number), VOLUME), atol=2)
    assert pictures(reader(tmp_path / "s"), plane="coronal")["coronal-000"].shape == (36, 20)


def test_several_images_at_one_place_need_a_choice(tmp_path: Path) -> None:
    enhanced(tmp_path / "s" / "enhanced.dcm", list(range(18)), [i // 2 for i in range(18)])
    with pytest.raises(LeftOutError, match="holds up to 2 images at each place; volume=0 to 1 takes one"):
        pictures(reader(tmp_path / "s"))
    found = pictures(reader(tmp_path / "s", 1))
    odd = VOLUME[:, :, 1::2]
    np.testing.assert_allclose(found["axial-003"], shades(seen(odd, "axial", 3), odd), atol=2)
    with pytest.raises(LeftOutError, match="no volume=2"):
        pictures(reader(tmp_path / "s", 2))
    assert len(pictures(reader(save_series(tmp_path / "t", VOLUME), 1))) == 18  # there is only one


def test_frames_without_positions_are_taken_in_their_order(tmp_path: Path) -> None:
    dataset(tmp_path / "s" / "frames", np.moveaxis(VOLUME, 2, 0), {})
    np.testing.assert_allclose(pictures(reader(tmp_path / "s"))["slice-006"], shades(VOLUME[:, :, 6], VOLUME), atol=1)


@pytest.mark.parametrize("how", ["private tag", "acquisition matrix"])
def test_siemens_mosaics_are_split(tmp_path: Path, how: str) -> None:
    """18 slices of 24 x 20 pixels in five rows of five."""
    whole = np.zeros((5 * 24, 5 * 20), np.int16)
    for number in range(18):
        top, left = 24 * (number // 5), 20 * (number % 5)
        whole[top : top + 24, left : left + 20] = seen(VOLUME, "axial", number)
    corner = np.array(position(VOLUME.shape, "axial", 0, (1, 1, 3)))
    elements: dict[str, Any] = {
        "ImageType": ["ORIGINAL", "PRIMARY", "M", "ND", "MOSAIC"],
        "ImageOrientationPatient": list(ORIENTATIONS["axial"]),
        "ImagePositionPatient": (corner - [(5 * 20 - 20) / 2, (5 * 24 - 24) / 2, 0]).tolist(),
        "PixelSpacing": [1, 1],
        "SpacingBetweenSlices": 3,
        "AcquisitionMatrix": [24, 0, 0, 20],
    }
    path = dataset(tmp_path / "s" / "mosaic.IMA", whole, elements)
    if how == "private tag":
        file = pydicom.dcmread(path)
        file.private_block(0x0019, "SIEMENS MR HEADER", create=True).add_new(0x0A, "US", 18)
        file.save_as(path)
    found = pictures(reader(tmp_path / "s"))
    assert len(found) == 18  # without the number, the seven empty ones at the end are left out as empty
    for number in (0, 4, 17):
        np.testing.assert_allclose(
            found[f"axial-{number:03d}"],
            shades(seen(VOLUME, "axial", number), whole if how != "private tag" else VOLUME),
            atol=1,
        )
    with pytest.raises(LeftOutError, match="a mosaic does not say in which direction"):
        pictures(reader(tmp_path / "s"), plane="coronal")


def test_slices_that_are_not_evenly_spaced_are_cut_only_as_acquired(tmp_path: Path) -> None:
    folder = save_series(tmp_path / "s", VOLUME, shuffle=False)
    (folder / "IM0009").unlink()
    assert len(pictures(reader(folder))) == 17
    assert len(pictures(reader(folder), plane="axial")) == 17
    with pytest.raises(LeftOutError, match=r"its slices are 1.00 to 2.00 mm apart, not even"):
        pictures(reader(folder), plane="coronal")


def test_tilted_slices_are_cut_only_as_acquired(tmp_path: Path) -> None:
    folder = save_series(tmp_path / "s", VOLUME, shuffle=False)
    for i, path in enumerate(sorted(folder.iterdir())):
        slice_ = pydicom.dcmread(path)
        slice_.ImagePositionPatient[1] += 0.3 * i
        slice_.save_as(path)
    assert len(pictures(reader(folder))) == 18
    assert any("tilted" in reason for reason in omissions(reader(folder), plane="all"))


def test_damaged_slices_and_second_copies_are_named(tmp_path: Path) -> None:
    folder = save_series(tmp_path / "s", VOLUME, shuffle=False)
    whole = (folder / "IM0003").read_bytes()
    (folder / "IM0003").write_bytes(whole[:-100])
    (folder / "copy").write_bytes((folder / "IM0005").read_bytes())
    assert len(pictures(reader(folder))) == 17
    first, second = omissions(reader(folder))
    assert {first.partition(":")[0], second} == {"cannot be read", "a second copy of the same image"} or (
        {second.partition(":")[0], first} == {"cannot be read", "a second copy of the same image"}
    )


def test_orientations_in_one_series_become_volumes_of_their_own(tmp_path: Path) -> None:
    uid = generate_uid()
    for plane in ("axial", "sagittal"):
        save_series(tmp_path / "s" / plane, VOLUME, plane, SeriesInstanceUID=uid)
    names = list(pictures(reader(tmp_path / "s")))
    assert {name.rpartition("-")[0] for name in names} == {"part1-axial", "part2-sagittal"}


CHOOSING = scan.Choosing([], None, None, None, cutting())


def found_in(folder: Path, **changes: Any) -> tuple[list[Source], dict[str, str]]:
    choosing = scan.Choosing(**{**vars(CHOOSING), **changes})
    sources, left_out, hidden = scan.sources(files_below(folder), choosing)
    return sources, {hidden(part.name): part.reason for part in left_out}


def test_objects_that_are_no_images_to_train_on_are_named(tmp_path: Path) -> None:
    wrong: dict[str, dict[str, Any]] = {
        "seg": {"SOPClassUID": pydicom.uid.SegmentationStorage},
        "dose": {"SOPClassUID": pydicom.uid.RTDoseStorage},
        "plan": {"SOPClassUID": pydicom.uid.RTPlanStorage},
        "report": {"SOPClassUID": pydicom.uid.BasicTextSRStorage},
        "state": {"SOPClassUID": pydicom.uid.GrayscaleSoftcopyPresentationStateStorage},
        "localizer": {"ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"]},
        "scout": {"SeriesDescription": "3-plane scout"},
        "colour": {"PhotometricInterpretation": "RGB"},
    }
    for name, elements in wrong.items():
        dataset(tmp_path / name, VOLUME[:, :, 0], elements)
    (tmp_path / "notes").write_text("neither DICOM nor an image")
    (tmp_path / "IM.dcm").write_bytes(b"damaged")
    sources, reasons = found_in(tmp_path)
    assert sources == []
    assert reasons == {
        "IM.dcm": "not DICOM, or damaged",
        "colour": "a colour image",
        "dose": "a dose grid",
        "localizer": "a localizer",
        "notes": "without suffix, and not an image",
        "plan": "a radiotherapy object",
        "report": "a structured report",
        "scout": "a localizer",
        "seg": "a segmentation",
        "state": "a presentation state",
    }


def test_files_without_suffix_or_mark_are_recognised_and_grouped_by_series(tmp_path: Path) -> None:
    marked, bare = generate_uid(), generate_uid()
    for i in range(4):
        dataset(tmp_path / "pat" / "study" / "deep" / f"1.2.{i}", VOLUME[:, :, i], {"SeriesInstanceUID": marked})
        path = dataset(tmp_path / "pat" / f"{i}", VOLUME[:, :, i], {"SeriesInstanceUID": bare, "InstanceNumber": i})
        file = pydicom.dcmread(path)
        content = Dataset()
        content.update({element.tag: element for element in file})
        content.save_as(path, implicit_vr=True, little_endian=True)
        assert path.read_bytes()[128:132] != b"DICM"
    (tmp_path / "pat" / "3").rename(tmp_path / "pat" / "3.IMA")
    sources, reasons = found_in(tmp_path)
    assert reasons == {}
    assert {source.names[0]: len(pictures(source.read)) for source in sources} == {marked: 4, bare: 4}


def test_series_are_chosen_by_their_description_and_classes_by_an_element(tmp_path: Path) -> None:
    for name, label in (("T1 mprage", "glioma"), ("T2 tse", "healthy")):
        uid = generate_uid()
        elements = {"SeriesInstanceUID": uid, "SeriesDescription": name, "StudyDescription": label}
        dataset(tmp_path / name.replace(" ", "_"), VOLUME[:, :, 0], elements)
    sources, reasons = found_in(tmp_path, series="^T1", class_tag="StudyDescription")
    assert [source.tag for source in sources] == ["glioma"]
    assert reasons == {"T2_tse": "not selected by series: T2 tse"}
    with pytest.raises(UserError, match="class_tag=Nonsense: is not the keyword"):
        dicom_headers.check_keyword("Nonsense")


def test_patients_have_pseudonyms_and_their_names_are_removed_from_messages(tmp_path: Path) -> None:
    for patient in ("MRN-4711", "MRN-4712"):
        dataset(tmp_path / patient / "a", VOLUME[:, :, 0], {"PatientID": patient, "PatientName": "Doe^Jane"})
    (tmp_path / "MRN-4711" / "jane.txt").write_text("")
    sources, reasons = found_in(tmp_path)
    assert [source.patient for source in sources] == [
        dicom_headers.pseudonym(name) for name in ("MRN-4711", "MRN-4712")
    ]
    assert all(re.fullmatch("p[0-9a-f]{12}", source.patient) for source in sources)
    assert list(reasons) == [".../....txt"]


def test_one_patient_id_for_all_stands_for_none(tmp_path: Path) -> None:
    for i in range(3):
        elements = {"PatientID": "ANONYMOUS", "StudyInstanceUID": generate_uid(), "SeriesInstanceUID": generate_uid()}
        dataset(tmp_path / str(i), VOLUME[:, :, 0], elements)
    assert len({source.patient for source in found_in(tmp_path)[0]}) == 3


def test_without_pydicom_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset(tmp_path / "a", VOLUME[:, :, 0], {})
    monkeypatch.setitem(sys.modules, "pydicom", None)
    with pytest.raises(UserError, match=r"reading DICOM needs pydicom; pip install -e '.\[dicom\]'"):
        found_in(tmp_path)


OUTCOMES = {
    "CT_small.dcm": 1,
    "MR_small.dcm": 1,
    "MR_small_RLE.dcm": 1,
    "MR_small_bigendian.dcm": 1,
    "MR_small_expb.dcm": 1,
    "MR_small_implicit.dcm": 1,
    "MR_small_jp2klossless.dcm": 1,
    "MR_small_jpeg_ls_lossless.dcm": 1,
    "MR_small_padded.dcm": 1,
    "JPEG2000.dcm": 1,
    "JPGLosslessP14SV1_1s_1f_8b.dcm": 1,
    "JPEG-LL.dcm": 1,
    "MR-SIEMENS-DICOM-WithOverlays.dcm": 1,
    "MR_truncated.dcm": "cannot be read",
    "JPEG-lossy.dcm": "GDCM does not support",
    "SC_rgb_rle.dcm": "a colour image",
    "examples_palette.dcm": "a colour image",
    "image_dfl.dcm": "the whole file is deflated",
    "liver_1frame.dcm": "a segmentation",
    "rtdose.dcm": "a dose grid",
    "rtplan.dcm": "a radiotherapy object",
    "rtstruct.dcm": "a radiotherapy object",
    "test-SR.dcm": "a structured report",
    "waveform_ecg.dcm": "a waveform",
    "DICOMDIR": "a DICOM directory",
    "no_meta.dcm": "not DICOM, or damaged",
}
"""What is made of some of pydicom's test files: a number of pictures, or the reason why there are none."""


def outcome(path: Path) -> int | str:
    """How many pictures a file gives, or why it gives none."""
    try:
        sources, reasons = found_in(path.parent)
        if not sources:
            return next(iter(reasons.values()))
        (source,) = sources
        return len(pictures(source.read, empty=0))
    except LeftOutError as error:
        return str(error)


@pytest.mark.filterwarnings("ignore")
def test_every_test_file_of_pydicom_is_imported_or_left_out_with_a_reason(tmp_path: Path) -> None:
    base = Path(pydicom.__file__).parent / "data"
    files = [path for path in sorted(base.rglob("*")) if path.is_file() and path.suffix not in (".py", ".pyc")]
    assert len(files) > 100
    found: dict[str, int | str] = {}
    for i, path in enumerate(files):
        folder = tmp_path / str(i)
        folder.mkdir()
        (folder / path.name).symlink_to(path)
        found.setdefault(path.name, outcome(folder / path.name))
    assert all((isinstance(result, int) and result > 0) or result for result in found.values())
    for name, expected in OUTCOMES.items():
        if name in found:
            assert expected == found[name] or str(expected) in str(found[name]), (name, found[name])
    same = [found[name] for name in OUTCOMES if name.startswith("MR_small") and name in found]
    assert len(same) > 5
    assert set(same) == {1}


@pytest.mark.filterwarnings("ignore")
def test_compressed_slices_give_the_same_pictures_as_uncompressed_ones(tmp_path: Path) -> None:
    base = Path(pydicom.__file__).parent / "data"
    shown = []
    for kind in ("", "_RLE", "_jp2klossless", "_jpeg_ls_lossless", "_bigendian", "_implicit", "_expb", "_padded"):
        (path,) = base.rglob(f"MR_small{kind}.dcm")
        folder = tmp_path / f"s{kind}"
        folder.mkdir()
        (folder / path.name).symlink_to(path)
        shown.append(pictures(reader(folder)).popitem()[1])
    assert all(np.array_equal(grey, shown[0]) for grey in shown)


@pytest.mark.filterwarnings("ignore")
def test_every_test_file_of_nibabel_is_imported_or_left_out_with_a_reason(tmp_path: Path) -> None:
    base = Path(nibabel.__file__).parent / "tests" / "data"
    if not base.is_dir():
        pytest.skip("nibabel is installed without its test files")
    found = {}
    for path in sorted(path for path in base.iterdir() if path.is_file() and path.name[0] != "."):
        folder = tmp_path / path.name
        folder.mkdir()
        (folder / path.name).symlink_to(path)
        found[path.name] = outcome(folder / path.name)
    assert {name for name, result in found.items() if isinstance(result, int)} == {
        "anatomical.nii",
        "reoriented_anat_moved.nii",
        "resampled_anat_moved.nii",
    }
    assert found["anatomical.nii"] == 25
    for name in ("example4d.nii.gz", "example_nifti2.nii.gz", "functional.nii", "test.mgz"):
        assert "volumes; volume=0 to" in str(found[name])
    assert "48 slices do not fill" in str(found["0.dcm"])
    assert found["row_major.dconn.nii"] == "not a volume, but values on a surface or between regions"
    assert found["tiny.mnc"] == ".mnc not an image"


def test_what_names_patients_is_removed_from_paths() -> None:
    """Also short IDs, but not where the same letters mean something else."""
    headers = [
        dicom_headers.Header(patient, person, "", "", "", "", "")
        for patient, person in (("7", "DOE^JO"), ("A-1203", ""))
    ]
    redacted = scan.Redaction(headers)
    assert redacted("7/study/im1: 7 slices of 1.7 mm, series 17/7") == ".../study/im1: 7 slices of 1.7 mm, series 17/7"
    assert redacted("in/7/7.dcm") == "in/.../....dcm"
    assert redacted("in/a-1203_t1/x, Jo/doe/do") == "in/..._t1/x, .../.../do"
    assert scan.Redaction([])("7/x") == "7/x"
