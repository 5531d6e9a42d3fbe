"""Files about the project agree with each other: versions, constraints, hosted CI, the changelog."""

import re
import subprocess
import sys
import tomllib
from datetime import date
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.version import Version

import vaegan_pl

ROOT = Path(__file__).parents[1]
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
WORKFLOW: dict[str, Any] = yaml.safe_load((ROOT / ".github/workflows/tests.yml").read_text())


def lower_bound(requirement: Requirement) -> Version:
    (bound,) = (part.version for part in requirement.specifier if part.operator == ">=")
    return Version(bound)


def test_minimum_constraints_are_the_lower_bounds_of_all_dependencies() -> None:
    extras = (names for extra, names in PROJECT["optional-dependencies"].items() if extra not in ("dev", "test"))
    declared = [Requirement(line) for line in [*PROJECT["dependencies"], *(name for names in extras for name in names)]]
    lines = [line.partition("#")[0].strip() for line in (ROOT / "constraints-minimum.txt").read_text().splitlines()]
    pinned = {Requirement(line).name: str(Requirement(line).specifier) for line in lines if line}
    expected = {requirement.name: lower_bound(requirement) for requirement in declared}
    assert {name: Version(pin.removeprefix("==")) for name, pin in pinned.items()} == expected
    assert all(pin.startswith("==") for pin in pinned.values())


def test_hosted_ci_runs_every_declared_python() -> None:
    prefix = "Programming Language :: Python :: "
    declared = [name.removeprefix(prefix) for name in PROJECT["classifiers"] if name.startswith(prefix)]
    jobs = WORKFLOW["jobs"]
    assert jobs["tests"]["strategy"]["matrix"]["python"] == declared
    allowed = SpecifierSet(PROJECT["requires-python"])
    older = f"3.{min(Version(python).minor for python in declared) - 1}"
    assert all(python in allowed for python in declared)
    assert older not in allowed
    oldest = min(declared, key=Version)
    (python,) = (step["with"]["python-version"] for step in jobs["minimum-versions"]["steps"] if "with" in step)
    assert python == oldest


def test_hosted_ci_runs_the_targets_of_the_makefile_with_actions_of_a_major_version() -> None:
    steps = [step for job in WORKFLOW["jobs"].values() for step in job["steps"]]
    targets = {step["run"].split()[1] for step in steps if "run" in step}
    assert targets == {"lint", "test", "test-minimum"}
    makefile = (ROOT / "Makefile").read_text()
    assert all(f"\n{target}:" in makefile for target in targets)
    assert all(re.fullmatch(r"actions/[a-z-]+@v\d+", step["uses"]) for step in steps if "uses" in step)
    assert "://" not in (ROOT / ".github/workflows/tests.yml").read_text()


def test_one_version() -> None:
    assert "version" not in PROJECT  # setuptools reads it from vaegan_pl/version.py
    assert PROJECT["dynamic"] == ["version"]
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == vaegan_pl.__version__
    script = "import sys, vaegan_pl; print(vaegan_pl.__version__, 'torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.split() == [vaegan_pl.__version__, "False"]


def headings(changelog: str) -> list[str]:
    return re.findall(r"^## (.*)$", changelog, re.MULTILINE)


def check_changelog(changelog: str) -> None:
    first, *releases = headings(changelog)
    assert first == "[Unreleased]"
    found = [re.fullmatch(r"\[(\d+\.\d+\.\d+)\] - (\d{4}-\d\d-\d\d)", heading) for heading in releases]
    assert all(found)
    order = [(Version(match[1]), date.fromisoformat(match[2])) for match in found if match]
    assert order == sorted(order, reverse=True)
    kinds = set(re.findall(r"^### (.*)$", changelog, re.MULTILINE))
    assert kinds <= {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}


def test_the_changelog_keeps_to_its_format() -> None:
    check_changelog((ROOT / "CHANGELOG.md").read_text())


@pytest.mark.parametrize(
    "wrong",
    [
        "## [0.1.0] - 2025-01-01\n",
        "## [Unreleased]\n## [0.1.0]\n",
        "## [Unreleased]\n## [0.1.0] - 2025-02-01\n## [0.2.0] - 2025-03-01\n",
        "## [Unreleased]\n### News\n",
    ],
)
def test_another_format_is_noticed(wrong: str) -> None:
    with pytest.raises(AssertionError):
        check_changelog(wrong)


def test_files_that_are_no_code_are_installed() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]
    others = [path for path in (ROOT / "vaegan_pl").rglob("*.*") if path.suffix not in (".py", ".pyc", ".typed")]
    assert {path.suffix for path in others} >= {".csv", ".j2"}
    for path in others:
        package = ".".join(path.parent.relative_to(ROOT).parts)
        assert any(path.match(pattern) for pattern in settings.get(package, [])), path
