"""What would be uploaded: built, checked, installed into an environment of its own and run there. No network."""

import configparser
import email
import os
import re
import shutil
import site
import subprocess
import sys
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest
import yaml
from helpers import REPOSITORY

import trl_segment
from trl_segment import SegmentSelectiveSFTTrainer


PACKAGE = REPOSITORY / "trl_segment"
TEXTS = [
    *(REPOSITORY / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "Makefile")),
    *sorted(REPOSITORY.glob("docs/**/*.md")),
    *sorted(REPOSITORY.glob("examples/**/*.*")),
    *sorted(PACKAGE.rglob("*.py")),
]


def sources():
    """Every file that the package is made of."""
    return {
        path.relative_to(REPOSITORY).as_posix()
        for path in PACKAGE.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }


def extras():
    config = configparser.ConfigParser()
    config.read(REPOSITORY / "setup.cfg", encoding="utf-8")
    return set(config["options.extras_require"])


def run(*words, **options):
    done = subprocess.run(
        [str(word) for word in words], capture_output=True, text=True, encoding="utf-8", timeout=300, **options
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def clone(tmp_path_factory):
    """The repository as a clone has it, so that nothing that lies about here gets into what is built."""
    ignored = [
        line.rstrip("/")
        for line in (REPOSITORY / ".gitignore").read_text(encoding="utf-8").splitlines()
        if line and not line.startswith("#")
    ]
    folder = tmp_path_factory.mktemp("clone") / "trl-segment"
    return shutil.copytree(REPOSITORY, folder, ignore=shutil.ignore_patterns(".git", *ignored))


@pytest.fixture(scope="module")
def dist(clone, tmp_path_factory):
    """An sdist, and the wheel that is made of it."""
    folder = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", folder, clone, cwd=folder)
    return folder


@pytest.fixture(scope="module")
def wheel(dist):
    (file,) = dist.glob("*.whl")
    return file


@pytest.fixture(scope="module")
def environment(wheel, tmp_path_factory):
    """An environment with the wheel alone; its requirements are those that are installed here."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, with_pip=False)
    scripts = folder / ("Scripts" if os.name == "nt" else "bin")
    python = next(scripts.glob("python*"))
    packages = Path(run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").strip())
    # As folders to look in and not as site folders: the editable install of this checkout stays out
    here = [path for path in sys.path if Path(path).name in ("site-packages", "dist-packages")]
    (packages / "requirements.pth").write_text("\n".join([*here, *site.getsitepackages()]) + "\n", encoding="utf-8")
    pip = (sys.executable, "-m", "pip", "--python", python, "install", "--no-deps", "--no-index")
    # An installed checkout of the same version would count as the wheel
    run(*pip, "--ignore-installed", "--disable-pip-version-check", wheel)
    return scripts


def in_environment(environment, program, *words, cwd):
    outside = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    return run(environment / program, *words, cwd=cwd, env=outside)


def test_the_wheel_holds_the_package_and_nothing_else(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {name for name in names if ".dist-info/" not in name} == sources()
    assert {Path(name).suffix for name in names} >= {".py", ".js", ".css", ".jinja"}


def test_the_sdist_holds_what_the_wheel_is_made_of(dist):
    (file,) = dist.glob("*.tar.gz")
    with tarfile.open(file) as archive:
        files = [member.name.split("/", 1)[1] for member in archive.getmembers() if member.isfile()]
    files = {name for name in files if ".egg-info/" not in name}
    assert files == sources() | {
        *("README.md", "LICENSE", "CHANGELOG.md", "CITATION.cff", "MANIFEST.in"),
        *("pyproject.toml", "setup.cfg", "PKG-INFO"),
    }


def test_an_index_would_take_it(dist):
    shown = run(sys.executable, "-m", "twine", "check", "--strict", *sorted(dist.iterdir()))
    assert shown.count("PASSED") == 2


def test_its_metadata_is_that_of_setup_cfg(wheel):
    archive = zipfile.ZipFile(wheel)
    (name,) = [name for name in archive.namelist() if name.endswith(".dist-info/METADATA")]
    metadata = email.message_from_bytes(archive.read(name))
    assert metadata["Name"] == "trl-segment"
    assert metadata["Version"] == trl_segment.__version__
    assert metadata["License-Expression"] == "Apache-2.0"
    assert set(metadata.get_all("Provides-Extra")) == extras()
    assert metadata.get_payload(decode=True).decode().startswith("# trl-segment\n")
    (licenses,) = [name for name in archive.namelist() if name.endswith("LICENSE")]
    assert archive.read(licenses) == (REPOSITORY / "LICENSE").read_bytes()


def test_the_installed_package_runs(environment, tmp_path):
    where = in_environment(
        environment, "python", "-c", "import trl_segment; print(trl_segment.__file__)", cwd=tmp_path
    )
    assert Path(where.strip()).is_relative_to(environment.parent)
    shown = in_environment(environment, "trl-segment", "--version", cwd=tmp_path)
    assert shown.strip() == trl_segment.__version__
    assert "attribute" in in_environment(environment, "trl-segment", "--help", cwd=tmp_path)
    public = "import trl_segment; print(*(getattr(trl_segment, name).__name__ for name in trl_segment.__all__))"
    assert in_environment(environment, "python", "-c", public, cwd=tmp_path).split() == trl_segment.__all__


def test_the_installed_package_attributes_and_makes_a_page(environment, tmp_path):
    """The page is made of package data."""
    pytest.importorskip("jinja2")
    world = REPOSITORY / "examples" / "tiny_world"
    rows = (world / "traces.jsonl").read_text(encoding="utf-8").splitlines()[:1]
    (tmp_path / "traces.jsonl").write_text(rows[0] + "\n", encoding="utf-8")
    model, data = ("--model_name_or_path", world / "checkpoint"), ("--dataset_name", "traces.jsonl")
    in_environment(environment, "trl-segment", "attribute", *model, *data, cwd=tmp_path)
    in_environment(environment, "trl-segment", "inspect", *data, "--trace", 0, "--html", "trace.html", cwd=tmp_path)
    page = (tmp_path / "trace.html").read_text(encoding="utf-8")
    script = (PACKAGE / "report" / "templates" / "selection.js").read_text(encoding="utf-8").strip()
    assert script[:200] in page


def test_the_version_is_written_once_and_agreed_with():
    citation = yaml.safe_load((REPOSITORY / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["version"] == trl_segment.__version__
    newest = re.search(r"^## ([\d.]+) \((.+)\)$", (REPOSITORY / "CHANGELOG.md").read_text(encoding="utf-8"), re.M)
    assert trl_segment.__version__.removesuffix(".dev0") == newest[1]
    # A version under development is not uploaded, and the pages say so until it is
    development = trl_segment.__version__.endswith(".dev0")
    assert development == (newest[2] == "unreleased") == ("date-released" not in citation)
    for page in ("README.md", "docs/install.md"):
        text = (REPOSITORY / page).read_text(encoding="utf-8")
        assert ("not on PyPI yet" in text) == development, page


def test_the_paper_is_cited_in_the_same_way_everywhere():
    paper = SegmentSelectiveSFTTrainer._paper
    readme = (REPOSITORY / "README.md").read_text(encoding="utf-8")
    assert re.findall(r"```bibtex\n(.+?)\n```", readme, re.DOTALL) == [paper["citation"]]
    cited = yaml.safe_load((REPOSITORY / "CITATION.cff").read_text(encoding="utf-8"))["preferred-citation"]
    authors = " and ".join(f"{author['given-names']} {author['family-names']}" for author in cited["authors"])
    for said in (cited["title"], authors, str(cited["year"]), cited["collection-title"], paper["id"]):
        assert said in paper["citation"], said
    assert cited["title"] == paper["title"]
    assert cited["url"].endswith(f"/{paper['id']}")
    setup = (REPOSITORY / "setup.cfg").read_text(encoding="utf-8")
    assert cited["url"] in setup


def test_every_extra_that_is_named_exists():
    named = {}
    for path in TEXTS:
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:  # weights
            continue
        for found in re.findall(r"(?:trl[-_]segment|[\s\"'./]\.)\[([a-z]\w*(?:,\s*\w+)*)\]", text):
            named.setdefault(path, set()).update(re.split(r",\s*", found))
    assert len(named) > 3
    assert {path: found - extras() for path, found in named.items() if found - extras()} == {}


def test_links_of_the_readme_lead_somewhere_on_the_index(clone, tmp_path):
    """An index shows the README without the files around it, so the release workflow makes its links whole."""
    steps = yaml.safe_load((clone / ".github" / "workflows" / "release.yml").read_text(encoding="utf-8"))
    (step,) = [step for step in steps["jobs"]["build"]["steps"] if "Links" in step.get("name", "")]
    shutil.copy(clone / "README.md", tmp_path)
    variables = {"GITHUB_SERVER_URL": "https://git.example", "GITHUB_REPOSITORY": "a/b", "GITHUB_REF_NAME": "v1"}
    run("bash", "-ec", step["run"], cwd=tmp_path, env={**os.environ, **variables})
    before = re.findall(r"(!?)\[[^\]]*\]\(([^)]+)\)", (clone / "README.md").read_text(encoding="utf-8"))
    after = re.findall(r"(!?)\[[^\]]*\]\(([^)]+)\)", (tmp_path / "README.md").read_text(encoding="utf-8"))
    assert any(image for image, _ in before) and len(before) == len(after) > 20
    for (image, old), (_, new) in zip(before, after, strict=True):
        if old.startswith("https://"):
            assert new == old
        else:
            assert (clone / old.split("#")[0]).is_file(), old
            assert new == f"https://git.example/a/b/{'raw' if image else 'blob'}/v1/{old}"
