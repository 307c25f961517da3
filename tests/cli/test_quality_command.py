"""`trl-segment quality` on every selection."""

import json

import pytest
from helpers import REPOSITORY

from trl_segment import AttributionStore, SelectionConfig
from trl_segment.cli import main as cli
from trl_segment.selection import select


WORLD = REPOSITORY / "examples" / "tiny_world"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("quality")
    rows = (WORLD / "traces.jsonl").read_text().splitlines()[:4]
    (folder / "traces.jsonl").write_text("\n".join(rows) + "\n")
    cli.main(
        f"attribute --model_name_or_path {WORLD / 'checkpoint'} --dataset_name {folder / 'traces.jsonl'} "
        f"--attributions {folder / 'store'} --attribution_rule midpoint --attribution_evaluations 2".split()
    )
    return folder


@pytest.mark.parametrize("options", ["--tau 0.5", "--selection random --seed 3", "--selection all"])
def test_kept_segments_are_those_that_training_keeps(folder, tmp_path, options):
    pytest.importorskip("matplotlib")
    data = f"--dataset_name {folder / 'traces.jsonl'} --attributions {folder / 'store'}"
    cli.main(f"quality {data} --output_dir {tmp_path} {options}".split())
    words = options.split()
    values = {name[2:]: value for name, value in zip(words[::2], words[1::2], strict=True)}
    kinds = {"tau": float, "seed": int, "selection": str}
    config = SelectionConfig(**{name: kinds[name](value) for name, value in values.items()})
    rows = AttributionStore(folder / "store").values()
    kept = sum(int(select(row.segment_scores, config, row.key).kept.sum()) for row in rows)
    roles = json.loads((tmp_path / "quality.json").read_text())["roles"].values()
    assert sum(role["kept"] for role in roles) == kept
    assert (tmp_path / "quality.svg").read_text().startswith("<?xml")


def test_a_seed_without_a_draw_is_refused(folder, refused):
    data = f"--dataset_name {folder / 'traces.jsonl'} --attributions {folder / 'store'}"
    refused("--seed has no effect without --selection random", f"quality {data} --seed 3")
    refused("the dataset has no such column", f"quality {data} --roles_column nothing")


@pytest.mark.parametrize("roles", ["none", 3, None, {"a": 1}, [["a"], ["b"]], ["a"]])
def test_a_column_of_roles_that_fits_no_trace_names_the_row(folder, tmp_path, refused, roles):
    pytest.importorskip("matplotlib")
    rows = [json.loads(line) for line in (folder / "traces.jsonl").read_text().splitlines()]
    (tmp_path / "traces.jsonl").write_text("".join(json.dumps({**row, "roles": roles}) + "\n" for row in rows))
    data = f"--dataset_name {tmp_path / 'traces.jsonl'} --attributions {folder / 'store'}"
    refused(f"{rows[0]['id']}: --roles_column roles holds (no list|. roles?) for", f"quality {data}")
    # Elsewhere roles are an extra
    cli.main(f"report {data} --output_dir {tmp_path}".split())
    cli.main(f"inspect {data} --trace 0 --html {tmp_path / 'page.html'}".split())
