"""The project's own files: exact versions, the README's commands, no trace of anybody's machine."""

import re
import subprocess
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import worldformula

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
README = (ROOT / "README.md").read_text(encoding="utf-8")
TEXT = {".py", ".md", ".toml", ".txt", ".json", ".yaml", ".yml", ".html", ".svg", ".cff", ""}
MACHINE_PATH = re.compile(r"(?<![\w.~}])/(?:home|Users|root|mnt|workspace|work|private)/[\w.-]+")


def pins():
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    rows = [line for line in lines if line and not line.startswith("#")]
    for row in rows:
        assert re.fullmatch(r"[A-Za-z0-9_.-]+==[0-9][0-9a-z.]*", row), f"expected name==version, got {row!r}"
    return {canonicalize_name(name): version for name, version in (row.split("==") for row in rows)}


@pytest.mark.parametrize("group", ["core", *PROJECT["optional-dependencies"]])
def test_every_dependency_has_an_exact_version_that_its_range_admits(group):
    wanted = PROJECT["dependencies"] if group == "core" else PROJECT["optional-dependencies"][group]
    known = pins()
    for requirement in map(Requirement, wanted):
        version = known.get(canonicalize_name(requirement.name))
        assert version is not None, f"{requirement.name} is missing in constraints.txt"
        assert version in requirement.specifier, f"{requirement} does not admit {version}"


@pytest.mark.parametrize("ending", [".venv/bin/worldformula demo", ".venv/bin/pytest -n 2"])
def test_readme_has_one_complete_command_for(ending):
    (line,) = [row for row in README.splitlines() if row.endswith(ending)]
    assert line.startswith(f"python3 -m venv .venv && .venv/bin/pip install torch=={pins()['torch']} && ")
    assert "-c constraints.txt" in line


def test_links_of_the_front_pages_lead_somewhere():
    for page in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md"):
        text = (ROOT / page).read_text(encoding="utf-8")
        for target in re.findall(r"\]\((?!https?:|#)([^)#]+)", text):
            assert (ROOT / target).exists(), f"{page} links to {target}"


def test_no_tracked_file_holds_a_path_of_a_machine():
    try:
        listing = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("not a git checkout")
    own = {str(ROOT), str(Path.home())} - {"/"}
    for name in filter(None, listing.stdout.split("\0")):
        file = ROOT / name
        if file.suffix not in TEXT or not file.is_file():
            continue
        text = file.read_text(encoding="utf-8")
        assert not any(path in text for path in own), f"{name} holds a path of this machine"
        assert not MACHINE_PATH.search(text), f"{name}: {MACHINE_PATH.search(text)[0]}"


def test_the_path_pattern_finds_paths():
    home = "/" + "home/someone/project"
    assert MACHINE_PATH.search(f'open("{home}")')
    assert not MACHINE_PATH.search("docs/home/page and https://example.org/home/page")


def test_the_first_page_of_help_names_everything():
    """``help(worldformula)`` is long, as pydoc lists what every class inherits; its first page says what there is."""
    said = set(re.findall(r"\w+", worldformula.__doc__))
    assert said.issuperset(worldformula.__all__)
    assert len(worldformula.__doc__.splitlines()) < 40
