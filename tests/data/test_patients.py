"""Which patient an image shows: tables, paths and families of names."""

from pathlib import Path

import pytest

from vaegan_pl.data.patients import Patients, families, from_paths, from_table
from vaegan_pl.errors import UserError

PATHS = ["a/p1_1.png", "a/p1_2.png", "b/p2_1.png"]


def table(tmp_path: Path, text: str, paths: list[str] = PATHS, unknown_alone: bool = False) -> list[str]:
    (tmp_path / "patients.csv").write_text(text)
    return from_table(tmp_path / "patients.csv", paths, unknown_alone)


@pytest.mark.parametrize(
    "text",
    [
        "path,patient\na/p1_1.png,X\na/p1_2.png,X\nb/p2_1.png,Y\n",
        '\ufeffSubject_ID;note;Filename\r\nX;;p1_1.png\r\nX;;p1_2.png\r\n\r\nY;"a;b";p2_1.png\r\n',
        "a/p1_1\tX\na/p1_2\tX\nb/p2_1\tY\n",
        "image,patient\na\\p1_1.png, X\n./../x/p1_2.png,X \np2_1,Y\n",
    ],
    ids=["commas", "semicolons, in another order", "tabs, without a header or suffixes", "names and other folders"],
)
def test_tables_of_several_kinds_are_read(tmp_path: Path, text: str) -> None:
    assert table(tmp_path, text) == ["X", "X", "Y"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("path,patient\na/p1_1.png\n", "line 2.*1 columns"),
        ("path,patient\na/p1_1.png,\n", "line 2.*no patient"),
        ("path,patient\n,X\n", "line 2.*no path"),
        ("path,patient\na/p1_1.png,X\n\na/p1_1.png,Y\n", "line 4.*another patient in line 2"),
        ("path,patient\nc/q.png,X\n", "no line names an image.*c/q.png in line 2"),
        ("path,patient\na/p1_1.png,X\n", "does not list 2 images, such as a/p1_2.png, b/p2_1.png.*unknown_patients"),
        ("path;name\na/p1_1.png;X\n", "line 1.*no column for the patient"),
        ("patient,x\nX,a/p1_1.png\n", "line 1.*no column for the path"),
        ("a/p1_1.png\n", "single column"),
        ('path,patient\n"a/p1_1.png,X\n', "line 2.*not CSV"),
        ("", "single column"),
    ],
)
def test_each_mistake_in_a_table_is_named_with_its_line(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(UserError, match=f"(?s)patients.csv: .*{words}"):
        table(tmp_path, text)


def test_a_missing_table_and_one_that_is_no_text(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such file"):
        from_table(tmp_path / "nowhere.csv", PATHS, unknown_alone=False)
    (tmp_path / "binary.csv").write_bytes(b"path,patient\n\xff\xfe")
    with pytest.raises(UserError, match=r"binary\.csv.*text"):
        from_table(tmp_path / "binary.csv", PATHS, unknown_alone=False)


def test_a_name_of_several_images_is_refused_and_its_paths_are_not(tmp_path: Path) -> None:
    paths = ["a/1.png", "b/1.png"]
    with pytest.raises(UserError, match=r"line 2: 1\.png names 2 images, such as a/1\.png and b/1\.png"):
        table(tmp_path, "path,patient\n1.png,X\n", paths)
    assert table(tmp_path, "path,patient\na/1.png,X\nb/1.png,Y\n", paths) == ["X", "Y"]


def test_images_that_a_table_lacks_may_be_alone(tmp_path: Path) -> None:
    assert table(tmp_path, "path,patient\na/p1_1.png,X\n", unknown_alone=True) == ["X", "", ""]


def test_paths_name_patients_by_the_first_group() -> None:
    assert from_paths("(p[0-9])_", PATHS) == ["p1", "p1", "p2"]
    with pytest.raises(UserError, match=r"data.patient=\(q\): matches no patient in a/p1_1.png"):
        from_paths("(q)", PATHS)


@pytest.mark.parametrize(
    ("of", "words"),
    [(["X", "X", "Y", ""], "2 patients, 1 to 2 images each"), (["X", "X", "Y", "Y"], "2 patients, 2 images each")],
)
def test_patients_are_counted(of: list[str], words: str) -> None:
    assert str(Patients(of, "table")) == words


def test_files_and_their_augmentations_are_families() -> None:
    together = ["yes/Y100.JPG", "yes/aug_Y100_0_2052.jpg", "yes/aug_Y100_0_99.jpg"]
    turned = ["no/x.png", "no/x_rot90.png", "no/x_flip.png", "no/x (1).png", "no/x_copy.png", "no/x_flip_rot90.png"]
    numbered = ["c/gg (1).jpg", "c/gg (2).jpg", "c/gg (10).jpg"]  # many datasets number all their files like this
    alone = ["c/y_rot90.png", "c/Te-gl_0001.jpg", "c/Te-gl_0002.jpg"]
    found = families([*together, *turned, *numbered, *alone])
    assert len({*found[:3]}) == len({*found[3:9]}) == 1
    assert found[0] != found[3]
    assert found[9:] == [""] * 6
