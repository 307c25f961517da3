"""
What each extra of the package brings, in packages and MiB on disk: the table of docs/install.md.

    python benchmarks/install_size.py    # in an environment with everything, as `make .venv/installed` makes it

Sizes are those that the installed packages record for their files, compiled bytecode not counted.
"""

import configparser
import re
import sys
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement


def closure(requirements, known):
    """Names of the distributions that requirements bring, with those that these require."""
    found, open_ = set(), [Requirement(line) for line in requirements if line.strip()]
    while open_:
        requirement = open_.pop()
        name = re.sub(r"[-_.]+", "-", requirement.name).lower()
        asked = (name, frozenset(requirement.extras))
        if asked in known:
            continue
        known.add(asked)
        try:
            distribution = metadata.distribution(name)
        except metadata.PackageNotFoundError:
            print(f"<!-- {name} is not installed here and is not counted -->")
            continue
        found.add(name)
        for line in distribution.requires or ():
            inner = Requirement(line)
            environments = [{"extra": extra} for extra in (*requirement.extras, "")]
            if inner.marker is None or any(inner.marker.evaluate(environment) for environment in environments):
                open_.append(inner)
    return found


def mib(name):
    return sum(file.size or 0 for file in metadata.distribution(name).files or ()) / 2**20


def main():
    config = configparser.ConfigParser()
    config.read(Path(__file__).resolve().parents[1] / "setup.cfg", encoding="utf-8")
    base = closure(config["options"]["install_requires"].splitlines(), set())
    # Libraries of the GPU, which the build of torch for CPUs does without
    for_cuda = {name for name in closure(["torch"], set()) if re.match(r"(nvidia|cuda|triton)", name)}
    python = f"Python {sys.version_info.major}.{sys.version_info.minor}"
    print(f"torch {metadata.version('torch')}, {python}, {sys.platform}\n")
    print("| installed | packages | MiB |\n| --- | --- | --- |")
    rows = {
        "the package, without extras": base - for_cuda,
        "of which `torch`": {"torch"},
        "libraries of CUDA": for_cuda,
    }
    for extra, lines in config["options.extras_require"].items():
        rows[f"`[{extra}]`"] = closure(lines.splitlines(), set()) - base
    for label, names in rows.items():
        print(f"| {label} | {len(names)} | {sum(map(mib, names)):,.0f} |")


if __name__ == "__main__":
    main()
