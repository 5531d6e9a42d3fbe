from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vaegan_pl.data.splits import FOLDS, SPLITS, Split, by_folder, by_group, leaking

SHARES = {"validation": 0.1, "test": 0.2}


def split(
    groups: list[int],
    labels: list[int],
    copies: str = "drop",
    seed: int = 0,
    sizes: list[int] | None = None,
    patients: list[str] | None = None,
    folds: list[int] | None = None,
    fold: int | None = None,
) -> Split:
    n = len(groups)
    keys = [f"{i:03d}" if group >= 0 else "" for i, group in enumerate(groups)]
    whose = patients or [""] * n
    given = folds or [-1] * n
    return by_group(
        np.array(groups), np.array(labels), whose, given, keys, sizes or [1] * n, SHARES, fold, copies, seed
    )


@given(
    st.lists(st.tuples(st.integers(-1, 30), st.integers(0, 3), st.sampled_from(["", *"abcdefghij"])), max_size=120),
    st.sampled_from(["drop", "weight"]),
    st.integers(0, 2**32 - 1),
)
def test_no_group_and_no_patient_ever_crosses(images: list[tuple[int, int, str]], copies: str, seed: int) -> None:
    """For any structure of groups, labels and patients and any seed, every readable image is in exactly one place."""
    groups, labels = [group for group, _, _ in images], [label for _, label, _ in images]
    patients = [patient for _, _, patient in images]
    result = split(groups, labels, copies, seed, patients=patients)
    whose = [{patients[i] for g in result.groups[name] for i in g} - {""} for name in SPLITS]
    assert len(set().union(*whose)) == sum(map(len, whose))
    where = {name: {groups[i] for i in result.images(name)} for name in SPLITS}
    where["conflicts"] = {groups[i] for group in result.conflicts for i in group}
    for a, b in [
        ("train", "validation"),
        ("train", "test"),
        ("validation", "test"),
        *((s, "conflicts") for s in SPLITS),
    ]:
        assert not where[a] & where[b]
    places = [*(i for name in SPLITS for i in result.images(name)), *result.dropped]
    places += [i for group in result.conflicts for i in group]
    assert sorted(places) == [i for i, group in enumerate(groups) if group >= 0]
    assert not any(leaking(result, np.array(groups)).values())
    for group in (g for name in SPLITS for g in result.groups[name]):
        assert len({groups[i] for i in group}) == 1
        assert len({labels[i] for i in group}) == 1
    for group in result.conflicts:
        assert len({labels[i] for i in group}) > 1


@given(
    st.lists(st.tuples(st.integers(0, 30), st.integers(0, 2), st.sampled_from(["", *"abcdefghij"])), max_size=120),
    st.dictionaries(st.sampled_from("abcdefghij"), st.integers(0, FOLDS - 1)),
    st.integers(0, 2**32 - 1),
)
def test_every_image_tests_once_in_a_cross_validation(
    images: list[tuple[int, int, str]], given_folds: dict[str, int], seed: int
) -> None:
    """Whatever folds patients have: no patient crosses, and over all folds each image tests once."""
    labels = [label for _, label, _ in images]
    patients = [patient for _, _, patient in images]
    groups = list(range(len(images)))  # groups that patients share would join their folds
    folds = [given_folds.get(patient, -1) for patient in patients]
    tested: Counter[int] = Counter()
    for fold in range(FOLDS):
        result = split(groups, labels, "weight", seed, patients=patients, folds=folds, fold=fold)
        whose = [{patients[i] for i in result.images(name)} - {""} for name in SPLITS]
        assert len(set().union(*whose)) == sum(map(len, whose))
        for i in groups:
            if folds[i] >= 0:
                place = {fold: "test", (fold + 1) % FOLDS: "validation"}.get(folds[i], "train")
                assert i in result.images(place)
        tested.update(result.images("test"))
    assert tested == Counter(groups)


def test_patients_without_a_fold_are_dealt_evenly() -> None:
    labels = [0] * 50 + [1] * 25
    for fold in range(FOLDS):
        result = split(list(range(75)), labels, fold=fold)
        counts = {name: Counter(labels[i] for i in result.images(name)) for name in SPLITS}
        assert counts == {"train": {0: 30, 1: 15}, "validation": {0: 10, 1: 5}, "test": {0: 10, 1: 5}}


@pytest.mark.parametrize("seed", range(5))
def test_every_class_keeps_its_share(seed: int) -> None:
    labels = [0] * 200 + [1] * 50 + [2] * 10
    result = split(list(range(260)), labels, seed=seed)
    counts = {name: Counter(labels[i] for i in result.images(name)) for name in SPLITS}
    assert counts == {
        "validation": {0: 20, 1: 5, 2: 1},
        "test": {0: 40, 1: 10, 2: 2},
        "train": {0: 140, 1: 35, 2: 7},
    }


def test_the_seed_decides_and_the_order_of_files_does_not() -> None:
    keys = [f"{i:03d}" for i in range(100)]
    results = []
    for order, seed in ((range(100), 0), (range(99, -1, -1), 0), (range(100), 1)):
        shuffled = [keys[i] for i in order]
        groups, labels = np.arange(100), np.zeros(100, int)
        result = by_group(groups, labels, [""] * 100, [-1] * 100, shuffled, [1] * 100, SHARES, None, "drop", seed)
        results.append({name: {shuffled[i] for i in result.images(name)} for name in SPLITS})
    assert results[0] == results[1]
    assert results[0] != results[2]


def test_a_patient_counts_for_the_class_of_most_groups_and_the_first_of_equals() -> None:
    """Ten patients: five with more of class 1, five with as much of both; each class validates and tests with patients
    of its own, whatever the order of their images."""
    labels, patients = [], []
    for i in range(10):
        mine = [0, 1, 1] if i < 5 else [1, 0]
        labels += mine
        patients += ["abcdefghij"[i]] * len(mine)
    n = len(labels)
    result = split(list(range(n)), labels, patients=patients)
    for name, count in (("validation", 1), ("test", 1), ("train", 3)):
        whose = {patients[i] for i in result.images(name)}
        assert len(whose & set("abcde")) == count
        assert len(whose & set("fghij")) == count


def test_a_group_falls_where_its_first_pixels_by_hash_say_whichever_image_is_listed_first() -> None:
    keys = [f"{i:03d}" for i in range(100)]
    results = []
    for flip in (False, True):
        order = [i ^ flip for i in range(100)]  # swaps the two images of each group
        groups, shuffled = np.array([i // 2 for i in order]), [keys[i] for i in order]
        result = by_group(
            groups, np.zeros(100, int), [""] * 100, [-1] * 100, shuffled, [1] * 100, SHARES, None, "weight", 0
        )
        results.append({name: {shuffled[i] for i in result.images(name)} for name in SPLITS})
    assert results[0] == results[1]


def test_an_added_image_moves_few_others() -> None:
    before = split(list(range(100)), [0] * 100)
    after = split(list(range(101)), [0] * 101)
    moved = [i for name in SPLITS for i in set(before.images(name)) - set(after.images(name))]
    assert len(moved) <= 2


def test_the_largest_image_stands_for_its_group_or_all_take_turns_in_training() -> None:
    groups = [i // 3 for i in range(60)]
    sizes = [1, 5, 2] * 20
    dropped = split(groups, [0] * 60, "drop", sizes=sizes)
    assert all(len(group) == 1 and group[0] % 3 == 1 for name in SPLITS for group in dropped.groups[name])
    assert len(dropped.dropped) == 40
    weighted = split(groups, [0] * 60, "weight", sizes=sizes)
    assert all(sorted(i % 3 for i in group) == [0, 1, 2] for group in weighted.groups["train"])
    assert all(len(group) == 1 for name in ("validation", "test") for group in weighted.groups[name])


def test_a_group_with_two_labels_is_left_out() -> None:
    result = split([0, 0, 1, 1, 2, 3, 4], [0, 1, 1, 1, 1, 1, 1])
    assert result.conflicts == [[0, 1]]
    assert 0 not in [i for name in SPLITS for i in result.images(name)]


def test_folders_are_kept_and_their_leaks_counted() -> None:
    folders = ["train", "train", "train", "test", "test", "test"]
    result = by_folder(folders, np.array([True, True, False, True, True, True]))
    assert {name: result.images(name) for name in SPLITS} == {
        "train": [0, 1],
        "validation": [3, 4, 5],
        "test": [3, 4, 5],
    }
    assert leaking(result, np.array([7, 8, -1, 8, 9, 7])) == {"test": [3, 5]}
    with_validation = by_folder([*folders, "validation"], np.ones(7, bool))
    assert with_validation.images("validation") == [6]
