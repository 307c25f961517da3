"""The commands, run as a user would, on files."""

import json
import subprocess
import sys

import pytest
from helpers import make_rows, tiny_model, tiny_tokenizer

from trl_segment.cli import main as cli
from trl_segment.store import AttributionStore, exclusive_run


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A model, rows with ids, and a store made of them by the command."""
    folder = tmp_path_factory.mktemp("cli")
    tokenizer = tiny_tokenizer()
    tiny_model(tokenizer).save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    rows = [{"id": f"sum-{i}", **row} for i, row in enumerate(make_rows(5))]
    rows[3]["solution"] = "no reasoning tags, no box"
    rows[3]["answer"] = ""
    (folder / "traces.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n")
    (folder / "config.yaml").write_text(
        f"model_name_or_path: {folder / 'model'}\n"
        f"dataset_name: {folder / 'traces.jsonl'}\n"
        f"attributions: {folder / 'store'}\n"
        "attribution_rule: midpoint\n"
        "attribution_evaluations: 3\n"
    )
    cli.main(["attribute", "--config", str(folder / "config.yaml")])
    return folder


def test_attribute_stores_every_trace(folder, capsys):
    store = AttributionStore(folder / "store")
    assert len(store) == 5
    assert sorted(row.name for row in store.values()) == [f"sum-{i}" for i in range(5)]
    assert {row.name: row.problem for row in store.values()}["sum-3"] == "the answer is empty"
    assert all(row.evaluations == 3 for row in store.values() if row.problem is None)
    cli.main(["attribute", "--config", str(folder / "config.yaml")])
    assert "0 attributed with 0 gradient evaluations, 5 read from the store" in capsys.readouterr().out


def test_attribute_with_other_settings_into_the_same_store_is_refused(folder, refused):
    refused(
        "attribution_evaluations: stored 3, now 4",
        ["attribute", "--config", folder / "config.yaml", "--attribution_evaluations", 4],
    )


def test_shards_into_one_store_or_several_give_the_same(folder, tmp_path, capsys, refused):
    def attribute(*options):
        cli.main(["attribute", "--config", str(folder / "config.yaml"), *options])

    for shard in ("2/3", "1/3", "3/3"):
        attribute("--shard", shard, "--attributions", str(tmp_path / "shared"))
        attribute("--shard", shard, "--attributions", str(tmp_path / f"own-{shard[0]}"))
    shown = capsys.readouterr().out
    lines = ("2 traces: 2 attributed", "2 traces: 1 attributed", "1 trace: 1 attributed")
    assert [shown.count(line) for line in lines] == [2, 2, 2]
    own = [str(tmp_path / f"own-{i}") for i in (3, 1, 2)]
    cli.main(["merge", "--attributions", str(tmp_path / "merged"), "--stores", *own])
    assert "5 traces stored in" in capsys.readouterr().out
    contents = [
        {path.name: path.read_bytes() for path in store.iterdir() if path.is_file()}
        for store in (folder / "store", tmp_path / "shared", tmp_path / "merged")
    ]
    assert contents[0] == contents[1] == contents[2] and len(contents[0]) == 2
    cli.main(["merge", "--attributions", str(tmp_path / "merged"), "--stores", str(tmp_path / "shared")])
    assert "5 traces, 0 of them new" in capsys.readouterr().out
    attribute("--attributions", str(tmp_path / "other"), "--attribution_evaluations", "4", "--shard", "1/3")
    refused(
        r"must not mix: attribution_evaluations: .*3, .*4",
        ["merge", "--attributions", tmp_path / "none", "--stores", *own, tmp_path / "other"],
    )
    assert not (tmp_path / "none").exists(), "all or none, and nothing that blocks the next"


@pytest.mark.parametrize("shard", ["0/3", "4/3", "3", "a/b", "1/0", "-1/3"])
def test_a_shard_that_does_not_exist_is_refused(folder, refused, shard):
    line = ["attribute", "--config", folder / "config.yaml", f"--shard={shard}"]
    refused("`shard` must be a part and the number of parts", line)


def test_a_second_run_on_a_store_is_refused(folder, refused):
    for share, shard in ((None, "1/2"), ((1, 2), "1/2")):
        with exclusive_run(folder / "store", share):
            line = ["attribute", "--config", folder / "config.yaml"]
            refused("Another run is at work on the attribution store", [*line, "--shard", shard])
            refused("Another run is at work on the attribution store", line)


def test_sft_trains_from_the_store(folder, tmp_path, capsys):
    cli.main(
        f"sft --model_name_or_path {folder / 'model'} --dataset_name {folder / 'traces.jsonl'} "
        f"--attributions {folder / 'store'} --output_dir {tmp_path / 'out'} --max_steps 2 --logging_steps 1 "
        "--bf16 False --use_cpu --report_to none --tau 0.3 --keep_last 0".split()
    )
    assert (tmp_path / "out" / "model.safetensors").exists()
    shown = capsys.readouterr().out
    assert "1 x the answer is empty: sum-3" in shown
    assert "trained_token_share" in shown


def test_sft_with_lora_saves_an_adapter(folder, tmp_path):
    pytest.importorskip("peft")
    cli.main(
        f"sft --model_name_or_path {folder / 'model'} --dataset_name {folder / 'traces.jsonl'} "
        f"--attributions {folder / 'store'} --output_dir {tmp_path / 'out'} --max_steps 1 --use_peft --lora_r 2 "
        "--lora_target_modules q_proj v_proj --bf16 False --use_cpu --report_to none".split()
    )
    assert (tmp_path / "out" / "adapter_model.safetensors").exists()


def test_inspect_shows_scores_and_verdicts(folder, capsys, refused):
    pytest.importorskip("rich")
    arguments = ["--dataset_name", str(folder / "traces.jsonl"), "--attributions", str(folder / "store")]
    cli.main(["inspect", *arguments, "--trace", "sum-1", "--color", "False", "--tau", "0.3", "--keep_last", "1"])
    shown = capsys.readouterr().out
    row = next(row for row in AttributionStore(folder / "store").values() if row.name == "sum-1")
    assert "sum-1" in shown
    assert f"{row.sum_abs[1] / row.num_tokens[1] ** 0.5:.4g}" in shown
    assert f"{row.f_input:.3f}" in shown
    assert "kept, always" in shown
    assert "dropped" in shown
    assert "\x1b" not in shown
    cli.main(["inspect", *arguments, "--trace", "sum-1", "--color", "True"])
    assert "\x1b[" in capsys.readouterr().out
    cli.main(["inspect", *arguments, "--trace", "3"])
    assert "sum-3 is trained in full: the answer is empty" in " ".join(capsys.readouterr().out.split())
    refused("no trace 'sum-9'", ["inspect", *arguments, "--trace", "sum-9"])


def test_a_missing_store_and_a_missing_split_are_clear(folder, refused):
    data = ["--dataset_name", str(folder / "traces.jsonl")]
    refused("no attribution store", ["inspect", *data, "--attributions", folder / "nothing"])
    empty = folder / "data"
    empty.mkdir(exist_ok=True)
    (empty / "test.jsonl").write_text((folder / "traces.jsonl").read_text())
    line = ["attribute", "--model_name_or_path", folder / "model", "--dataset_name", empty]
    refused("no split 'train', only test", line)
    refused("--model_name_or_path is required", ["attribute", *data])


def test_help_and_unknown_commands(capsys, refused):
    cli.main([])
    assert "attribute" in capsys.readouterr().out
    refused("trl-segment: error: unknown command 'train'. Commands are attribute, merge", ["train"])
    refused(r"unknown command 'evalute'. Did you mean evaluate\?", ["evalute"])
    refused(r"unknown command 'Inspect'. Did you mean inspect\?", ["Inspect"])
    refused("'--tau' stands where the command belongs", ["--tau", "0.5", "sft"])
    for command in ("attribute", "sft", "inspect"):
        with pytest.raises(SystemExit) as stop:
            cli.main([command, "--help"])
        assert stop.value.code == 0
    shown = capsys.readouterr().out
    assert "--tau" in shown
    assert "--attribution_rule" in shown


def test_the_entry_point_answers_without_torch():
    code = "import sys; from trl_segment.cli.main import main; main(['--version']); assert 'torch' not in sys.modules"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert shown.strip()
