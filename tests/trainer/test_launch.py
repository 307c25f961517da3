"""Runs that are started through a launcher, in processes of their own."""

import json
import os
import re
import subprocess
import sys

import pytest
from helpers import REPOSITORY, make_rows, tiny_model, tiny_tokenizer

from trl_segment.cli import main as cli
from trl_segment.store import AttributionStore


pytestmark = pytest.mark.distributed

CONFIGS = REPOSITORY / "examples" / "accelerate_configs"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("launch")
    tokenizer = tiny_tokenizer()
    tiny_model(tokenizer).save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    (folder / "traces.jsonl").write_text("\n".join(map(json.dumps, make_rows(5))) + "\n")
    return folder


def arguments(folder, output):
    return (
        f"--model_name_or_path {folder / 'model'} --dataset_name {folder / 'traces.jsonl'} --output_dir {output} "
        "--max_steps 2 --logging_steps 1 --save_strategy no --bf16 False --use_cpu --report_to none --tau 0.3 "
        "--attribution_rule midpoint --attribution_evaluations 3 --gradient_checkpointing False --save_strategy steps "
        "--save_steps 2"
    ).split()


def cpu_config(name, folder, processes=2):
    """A config of the examples, changed in what a GPU machine is."""
    text = (CONFIGS / f"{name}.yaml").read_text()
    for key, value in {"use_cpu": "true", "mixed_precision": "'no'", "num_processes": processes}.items():
        text = re.sub(rf"^{key}: .*$", f"{key}: {value}", text, flags=re.MULTILINE)
    (folder / f"{name}.yaml").write_text(text + "main_process_port: 0\n")
    return str(folder / f"{name}.yaml")


def trainer_state(output):
    return json.loads((output / "checkpoint-2" / "trainer_state.json").read_text())


def test_sft_takes_launch_arguments_like_trl_sft(folder, tmp_path):
    config = tmp_path / "run.yaml"
    config.write_text(f"accelerate_config: {cpu_config('single_gpu', tmp_path, processes=1)}\ntau: 0.9\n")
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "trl_segment.cli.main", "sft", "--config", str(config), "--num_machines", "1"]
    done = subprocess.run(
        [*command, *arguments(folder, tmp_path / "out")], capture_output=True, text=True, env=environment, timeout=300
    )
    assert done.returncode == 0, done.stderr[-3000:]
    # In this process the same arguments, the launcher's left out, give the same
    cli.main(["sft", *arguments(folder, tmp_path / "here")])
    launched, here = trainer_state(tmp_path / "out"), trainer_state(tmp_path / "here")
    assert [log.get("loss") for log in launched["log_history"]] == [log.get("loss") for log in here["log_history"]]


def test_attribution_in_a_run_of_two_processes_equals_one_process(folder, tmp_path):
    """Five traces on two ranks. Which process count the run had is read from what it wrote."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    done = subprocess.run(
        [*command, "-m", "trl_segment.cli.sft", *arguments(folder, tmp_path / "two")],
        capture_output=True,
        text=True,
        env=environment,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    cli.main(["sft", *arguments(folder, tmp_path / "one"), "--per_device_train_batch_size", "16"])
    one, two = (AttributionStore(tmp_path / run / "_attributions") for run in ("one", "two"))
    assert one.settings == two.settings
    assert set(one) == set(two)
    for key in one:
        assert two[key].sum_signed == pytest.approx(one[key].sum_signed, rel=1e-5, abs=1e-8)
    # two processes of eight rows a step see the five rows, two of them twice to be even
    states = [trainer_state(tmp_path / run) for run in ("one", "two")]
    assert states[0]["train_batch_size"] == 16
    assert states[1]["train_batch_size"] == 8
    assert (tmp_path / "two" / "checkpoint-2" / "rng_state_1.pth").exists()
    assert "Segment selection over 5 traces" in done.stdout
    assert done.stdout.count("Segment selection") == 1


def test_the_recipe_of_a_7b_model_trains_alike_in_one_process_and_in_two(folder, tmp_path):
    """docs/how_to/seven_billion.md with another model and dataset: the configuration is the one that it names."""
    pytest.importorskip("peft")
    data = f"--model_name_or_path {folder / 'model'} --dataset_name {folder / 'traces.jsonl'}"
    store = f"--attributions {tmp_path / 'scores'}"
    cli.main(
        f"attribute {data} {store} --segmenter paragraphs --attribution_rule midpoint "
        "--attribution_evaluations 3".split()
    )
    recipe = str(REPOSITORY / "examples" / "s1k_lora.yaml")
    small = (
        f"--config {recipe} {data} {store} --max_steps 2 --logging_steps 1 --save_steps 2 --bf16 False --use_cpu "
        "--dtype float32 --report_to none"
    ).split()
    for processes, config in ((1, "single_gpu"), (2, "multi_gpu")):
        launcher = ["-m", "accelerate.commands.launch", "--config_file", cpu_config(config, tmp_path, processes)]
        batch = ["--gradient_accumulation_steps", str(4 // processes), "--output_dir", str(tmp_path / config)]
        done = subprocess.run(
            [sys.executable, *launcher, "--module", "trl_segment.cli.sft", *small, *batch],
            capture_output=True,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            timeout=300,
        )
        assert done.returncode == 0, done.stderr[-3000:]
    one, two = (
        [log for log in trainer_state(tmp_path / config)["log_history"] if "loss" in log]
        for config in ("single_gpu", "multi_gpu")
    )
    # The second step is what is left of five rows, which two processes share out otherwise
    assert one[0]["loss"] == pytest.approx(two[0]["loss"], rel=1e-4)
    assert len(one) == len(two) == 2
    assert all(0 < log["trained_token_share"] < 1 for log in (*one, *two))
    adapter = json.loads((tmp_path / "multi_gpu" / "adapter_config.json").read_text())
    assert adapter["r"] == 16 and len(adapter["target_modules"]) == 7


def test_attribute_shares_the_traces_among_processes(folder, tmp_path):
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    options = (
        f"--model_name_or_path {folder / 'model'} --dataset_name {folder / 'traces.jsonl'} "
        "--attribution_rule midpoint --attribution_evaluations 3"
    ).split()
    launcher = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", cpu_config("multi_gpu", tmp_path)]
    command = [*launcher, "--module", "trl_segment.cli.attribute", *options, "--attributions", str(tmp_path / "two")]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    counts = re.findall(r"Process (\d) of 2: (\d) traces: (\d) attributed", done.stdout)
    assert sorted(counts) in ([("1", "2", "2"), ("2", "3", "3")], [("1", "3", "3"), ("2", "2", "2")])
    assert re.search(r"2 processes, busy for [\d.]+ s on average, the slowest 1\.\d\d times that", done.stdout)
    cli.main(["attribute", *options, "--attributions", str(tmp_path / "one")])
    one, two = (AttributionStore(tmp_path / run) for run in ("one", "two"))
    assert one.settings == two.settings
    assert set(one) == set(two)
    for key in one:
        assert two[key].sum_signed == pytest.approx(one[key].sum_signed, rel=1e-6, abs=1e-9)
