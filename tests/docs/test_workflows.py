"""Workflows and pre-commit hooks: whole YAML that runs what exists, on the versions that the package promises."""

import configparser
import re
import tomllib

import pytest
import yaml
from helpers import REPOSITORY


WORKFLOWS = sorted((REPOSITORY / ".github" / "workflows").glob("*.yml"))


def read(path):
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def workflow(name):
    return read(REPOSITORY / ".github" / "workflows" / name)


def setup():
    config = configparser.ConfigParser()
    config.read(REPOSITORY / "setup.cfg", encoding="utf-8")
    return config


def lines(text):
    return [line.strip() for line in text.splitlines() if line.strip()]


def pinned():
    text = (REPOSITORY / "constraints.txt").read_text(encoding="utf-8")
    return {name.lower().replace("_", "-"): version for name, version in re.findall(r"^([\w.-]+)==(\S+)$", text, re.M)}


def test_the_four_workflows_are_there():
    assert [path.stem for path in WORKFLOWS] == ["docs", "release", "tests", "weekly"]


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_a_workflow_is_whole(path):
    content = read(path)
    # YAML 1.1 reads the key `on` as true
    assert content.keys() >= {"name", True, "permissions", "jobs"}
    assert content["permissions"] == {"contents": "read"}, "a job that needs more asks for it"
    for job in content["jobs"].values():
        assert job.keys() >= {"runs-on", "timeout-minutes", "steps"}
        for step in job["steps"]:
            assert ("uses" in step) != ("run" in step)
            # Actions at a version
            assert re.fullmatch(r"[\w-]+/[\w-]+@[\w./]+", step.get("uses", "a/b@v1"))
            for extras in re.findall(r"\"\.\[([\w,]+)\]\"", step.get("run", "")):
                assert set(extras.split(",")) <= set(setup()["options.extras_require"])
            for test in re.findall(r"\btests/\S+\.py", step.get("run", "")):
                assert (REPOSITORY / test).is_file()


def test_pythons_agree():
    tested = workflow("tests.yml")["jobs"]["tests"]["strategy"]["matrix"]["python-version"]
    classifiers = lines(setup()["metadata"]["classifiers"])
    assert [f"Programming Language :: Python :: {version}" in classifiers for version in tested] == [True] * len(
        tested
    )
    assert sum(bool(re.search(r"Python :: 3\.\d+", line)) for line in classifiers) == len(tested)
    oldest = tested[0]
    assert setup()["options"]["python_requires"] == f">={oldest}"
    tools = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["tool"]
    assert tools["ruff"]["target-version"] == f"py{oldest.replace('.', '')}"
    assert tools["mypy"]["python_version"] == oldest
    for page in ("README.md", "Makefile"):
        assert re.findall(r"Python (3\.\d+) or newer", (REPOSITORY / page).read_text(encoding="utf-8")) == [oldest]
    assert f"{oldest} to {tested[-1]}" in (REPOSITORY / "docs" / "versions.md").read_text(encoding="utf-8")


def test_the_page_on_versions_says_what_is_installed():
    page = (REPOSITORY / "docs" / "versions.md").read_text(encoding="utf-8")
    required = dict(re.findall(r"^([\w-]+)>=([\d.]+)", setup()["options"]["install_requires"], re.M))
    for name, shown in (("trl", "TRL"), ("transformers", "transformers"), ("torch", "torch")):
        (row,) = [line for line in page.splitlines() if line.startswith(f"| {shown} |")]
        supported, tested = (cell.strip() for cell in row.split("|")[2:4])
        assert supported.startswith(required[name])
        assert tested == pinned()[name]


def test_the_page_on_versions_knows_the_version_of_stores():
    from trl_segment.store import STORE_VERSION

    page = (REPOSITORY / "docs" / "versions.md").read_text(encoding="utf-8")
    assert f"It is {STORE_VERSION}." in page
    assert re.findall(r"^\| (\d+) \|", page, re.M) == [str(version) for version in range(1, STORE_VERSION + 1)]


def test_tests_and_weekly_differ_in_constraints():
    commands = {
        name: " ".join(step.get("run", "") for job in workflow(name)["jobs"].values() for step in job["steps"])
        for name in ("tests.yml", "weekly.yml")
    }
    assert "--constraint constraints.txt" in commands["tests.yml"]
    assert "constraint" not in commands["weekly.yml"]
    assert "schedule" in workflow("weekly.yml")[True]


def test_every_direct_requirement_is_pinned():
    requirements = lines(setup()["options"]["install_requires"])
    for extra in setup()["options.extras_require"]:
        requirements += lines(setup().get("options.extras_require", extra, raw=True))
    names = {re.split(r"[\[<>=]", line)[0].lower() for line in requirements if not line.startswith("%")}
    assert names - pinned().keys() == set()


def test_hooks_are_those_of_the_environment():
    hooks = read(REPOSITORY / ".pre-commit-config.yaml")
    (ruff,) = [repo for repo in hooks["repos"] if "ruff" in repo["repo"]]
    assert ruff["rev"] == f"v{pinned()['ruff']}"
    assert {hook["id"] for repo in hooks["repos"] for hook in repo["hooks"]} >= {
        *("ruff-check", "ruff-format", "end-of-file-fixer", "check-added-large-files"),
    }


def test_only_a_tag_that_is_the_version_is_released():
    release = workflow("release.yml")
    assert release[True] == {"push": {"tags": ["v*"]}}
    assert release["jobs"]["publish"]["permissions"] == {"id-token": "write"}
    assert "password" not in str(release) and "secrets" not in str(release)
    (check,) = [step["run"] for step in release["jobs"]["build"]["steps"] if "is the version" in step.get("name", "")]
    pattern = re.search(r"sed -n 's/(.+)/\\1/p' (\S+)\)", check)
    source = (REPOSITORY / pattern[2]).read_text(encoding="utf-8")
    assert re.search(pattern[1].replace(r"\(", "(").replace(r"\)", ")"), source, re.M)
