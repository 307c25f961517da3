"""
Attribution and training in two processes under each kind of sharding, started by the configs of
`examples/accelerate_configs`. A launch takes half a minute, most of it imports, so each kind has one (and one more to
resume), in which `sharded_worker.py` does everything that the tests here look at.
"""

import dataclasses
import functools
import json
import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from grpo_rows import figures_of_grpo
from helpers import REPOSITORY, make_rows, tiny_model, tiny_tokenizer

from trl_segment.attribution import AttributionConfig, attribute_traces, attribution_settings
from trl_segment.store import AttributionStore
from trl_segment.traces import build_trace


pytestmark = pytest.mark.distributed

CONFIGS = REPOSITORY / "examples" / "accelerate_configs"
WORKER = Path(__file__).with_name("sharded_worker.py")

# What accelerate says of a run, for each config
KINDS = {
    "two_nodes": ("MULTI_CPU", None),
    "zero1": ("DEEPSPEED", 1),
    "zero2": ("DEEPSPEED", 2),
    "zero3": ("DEEPSPEED", 3),
    "fsdp2": ("FSDP", None),
}
CHECKPOINTED = ("zero2", "zero3", "fsdp2")
PARTS = ("command", "full", "lora", "again", "bf16", "other", "grpo")


def free_port() -> int:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return listening.getsockname()[1]


def launch(config: str, folder: Path, *parts: str, ends: str = "well") -> None:
    """Start `sharded_worker.py` in two processes, through the config as it is but for what a GPU machine is."""
    text = (CONFIGS / f"{config}.yaml").read_text()
    for name, value in {"use_cpu": "true", "mixed_precision": "'no'", "num_processes": "2"}.items():
        text, count = re.subn(rf"^{name}: .*$", f"{name}: {value}", text, flags=re.MULTILINE)
        assert count == 1
    adapted = folder / "config.yaml"
    adapted.write_text(text)
    machines = 2 if "num_machines: 2" in text else 1
    port = str(free_port())
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "SHARDED_WORKER_ENDS": ends}
    environment["PYTHONPATH"] = os.pathsep.join(sys.path)
    command = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(adapted)]
    command += ["--main_process_ip", "127.0.0.1", "--main_process_port", port]
    launchers = []
    for rank in range(machines):
        log = open(folder / f"log{rank}.txt", "w")  # noqa: SIM115 (open as long as the process runs)
        started = subprocess.Popen(
            [*command, "--machine_rank", str(rank), str(WORKER), str(folder), *parts],
            env=environment,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        launchers.append(started)
    try:
        codes = [started.wait(timeout=600) for started in launchers]
    finally:
        for started in launchers:
            if started.poll() is None:
                os.killpg(started.pid, signal.SIGKILL)
    logs = "\n".join((folder / f"log{rank}.txt").read_text()[-4000:] for rank in range(machines))
    assert (ends == "killed") == any(codes), logs


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    """Attributions by one process, of `n` rows with the tiny model, or with other weights in it."""

    @functools.cache
    def attribute(n, weights=None):
        tokenizer = tiny_tokenizer()
        model = tiny_model(tokenizer)
        if weights is not None:
            before = model.model.embed_tokens.weight.clone()
            model.load_state_dict(torch.load(weights, weights_only=True))
            assert not torch.equal(model.model.embed_tokens.weight, before)
        config = AttributionConfig(attribution_evaluations=13)
        store = AttributionStore(tmp_path_factory.mktemp("one"), attribution_settings(model, tokenizer, config))
        traces = [(str(index), build_trace(row)) for index, row in enumerate(make_rows(n))]
        attribute_traces(traces, model, tokenizer, config, store, progress=False)
        return store

    return attribute


@pytest.fixture(scope="module", params=KINDS)
def run(request, tmp_path_factory):
    """A launch of one kind: its name, its folder, and what each part wrote."""
    folder = tmp_path_factory.mktemp(request.param)
    tokenizer = tiny_tokenizer()
    tiny_model(tokenizer).save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    (folder / "traces.jsonl").write_text("\n".join(map(json.dumps, make_rows(5))) + "\n")
    parts = PARTS
    if request.param in CHECKPOINTED:
        parts += ("checkpoint_full", "checkpoint_lora")
    launch(request.param, folder, *parts, ends="killed" if request.param in CHECKPOINTED else "well")
    return request.param, folder, {part: json.loads((folder / f"{part}.json").read_text()) for part in parts}


def assert_same_scores(store, other, names=("sum_signed", "sum_abs", "num_tokens", "f_input", "f_baseline")):
    assert set(store) == set(other) and len(store) > 0
    for key in other:
        assert store[key].evaluations == other[key].evaluations
        for name in names:
            assert getattr(store[key], name) == pytest.approx(getattr(other[key], name), rel=1e-5, abs=1e-5)


def assert_same_curve(logs, others):
    assert len(logs) == len(others) > 0
    for (step, loss, norm), other in zip(logs, others, strict=True):
        assert step == other[0]
        assert loss == pytest.approx(other[1], rel=1e-5)
        assert norm == pytest.approx(other[2], rel=1e-5)


def test_every_config_has_its_command_line():
    text = (CONFIGS.parents[1] / "docs" / "distributed.md").read_text(encoding="utf-8")
    files = {path.name for path in CONFIGS.iterdir()}
    assert set(re.findall(r"--config_file examples/accelerate_configs/(\S+)", text)) == files
    assert files >= {f"{kind}.yaml" for kind in (*KINDS, "single_gpu", "multi_gpu")}


def test_two_processes_of_the_kind_that_was_asked_for(run):
    kind, _, results = run
    for part in ("full", "lora", "bf16"):
        figures = results[part]["attributed"]
        assert (figures["distributed_type"], figures["zero_stage"]) == KINDS[kind]
        assert figures["processes"] == 2
        assert (figures["sharded"] > 0) == (kind in ("zero3", "fsdp2"))


@pytest.mark.parametrize(("part", "rows"), [("full", 5), ("lora", 3)])
def test_attributions_equal_one_process(run, reference, part, rows):
    """With five traces on two processes, and with three, of a LoRA run with gradient accumulation."""
    _, folder, _ = run
    store = AttributionStore(folder / part / "a" / "_attributions")
    assert_same_scores(store, reference(rows))
    # The fingerprint of the whole weights, and all else that is said of how they were made
    assert store.settings == reference(rows).settings


@pytest.mark.parametrize("store", ["command/a", "other/a/_attributions"])
def test_a_model_that_is_loaded_for_it_equals_one_process(run, reference, store):
    """By the command, and in a training run with another attribution model."""
    _, folder, _ = run
    store = AttributionStore(folder / store)
    assert_same_scores(store, reference(5))
    # transformers rebuilds a tokenizer that it loads by the class of the model
    settings, expected = (dataclasses.replace(one.settings, tokenizer="") for one in (store, reference(5)))
    assert settings == expected


@pytest.mark.parametrize("part", ["full", "lora", "bf16", "again"])
def test_training_is_undisturbed(run, part):
    """Losses and gradient norms equal those of a run that was given the attributions; `again`: in mid-training."""
    _, _, results = run
    attributed, given = (results[part][name]["logs"] for name in ("attributed", "given"))
    assert len(attributed) == (9 if part == "again" else 6)
    assert_same_curve(attributed, given)


def test_attributions_in_mid_training_equal_one_process(run, reference):
    _, folder, _ = run
    store = AttributionStore(folder / "again" / "a" / "_attributions" / "epoch-1")
    assert_same_scores(store, reference(5, folder / "again" / "weights.pt"))


def test_grpo_with_segment_weights_equals_one_process(run, tmp_path):
    """Each process generates and scores half of every group, one of them more completions than the other."""
    _, _, results = run
    expected, found = figures_of_grpo(tmp_path), results["grpo"]
    assert len(found["logs"]) == 4
    for (step, loss, norm), other in zip(found["logs"], expected["logs"], strict=True):
        assert step == other[0]
        assert loss == pytest.approx(other[1], abs=1e-6)
        assert norm == pytest.approx(other[2], rel=1e-4)
    for ours, theirs in zip(found["metrics"], expected["metrics"], strict=True):
        assert ours.keys() == theirs.keys()
        timed = {"seconds", "share_of_step"}
        assert {n: ours[n] for n in ours.keys() - timed} == pytest.approx({n: theirs[n] for n in ours.keys() - timed})
    assert sum(one["rows_weighted"] for one in found["metrics"]) > 0


def test_a_killed_run_goes_on_as_if_nothing_had_been(run):
    """SIGKILL after a checkpoint, then new processes: the loss curve is the uninterrupted one's."""
    kind, folder, results = run
    if kind not in CHECKPOINTED:
        return
    launch(kind, folder, "resume_full", "resume_lora")
    for part in ("full", "lora"):
        resumed = json.loads((folder / f"resume_{part}.json").read_text())["logs"]
        assert [step for step, _, _ in resumed] == [4, 5, 6]
        assert_same_curve(resumed, results[f"checkpoint_{part}"]["logs"][3:])
