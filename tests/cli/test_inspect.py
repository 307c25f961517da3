"""`trl-segment inspect` on stores of every kind: it shows what training does, and runs the model as the store says."""

import json
import re

import pytest
import torch
from helpers import make_rows, tiny_model, tiny_tokenizer

import trl_segment.attribution
from trl_segment import AttributionConfig, AttributionStore, SelectionConfig, attribute_traces, build_trace
from trl_segment.attribution import attribution_settings
from trl_segment.cli import main as cli
from trl_segment.cli.inspect import stored_configs
from trl_segment.models import load_model
from trl_segment.selection import select


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("inspect")
    tokenizer = tiny_tokenizer()
    for name, seed in (("model", 0), ("other", 1)):
        tiny_model(tokenizer, seed=seed).save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)
    rows = [{"id": f"sum-{i}", **row} for i, row in enumerate(make_rows(4))]
    (folder / "traces.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n")
    return folder


def attribute(folder, store, options):
    model = "" if "--model_name_or_path" in options else f"--model_name_or_path {folder / 'model'}"
    data = f"--dataset_name {folder / 'traces.jsonl'} --attributions {folder / store}"
    cli.main(f"attribute {model} {data} {options}".split())


def line(folder, store, options=""):
    data = f"--dataset_name {folder / 'traces.jsonl'} --attributions {folder / store}"
    return f"inspect {data} --trace sum-3 {options}"


@pytest.fixture
def add_up(monkeypatch):
    """Whether the sums over the tokens that a command has just attributed are those that a store holds."""
    results = []

    def attribute_tokens(*args, original=trl_segment.attribution.attribute_tokens):
        results.append(original(*args))
        return results[-1]

    def compare(store):
        (stored,) = [row for row in AttributionStore(store).values() if row.name == "sum-3"]
        assert results.pop()[2].segments.sum_abs == pytest.approx(stored.segment_scores.sum_abs, rel=1e-5)

    monkeypatch.setattr("trl_segment.attribution.attribute_tokens", attribute_tokens)
    return compare


def make_store(folder, store, config, autocast="no", selection=None):
    """As a training run makes it: in mixed precision, if it has any."""
    model, tokenizer = load_model(str(folder / "model"), dtype="float32")
    settings = attribution_settings(model, tokenizer, config, autocast, selection=selection)
    rows = [json.loads(text) for text in (folder / "traces.jsonl").read_text().splitlines()]
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast == "bf16"):
        attribute_traces(
            [(row["id"], build_trace(row, config)) for row in rows],
            model,
            tokenizer,
            config,
            AttributionStore(folder / store, settings),
            selection=selection,
        )


def test_tokens_of_a_store_that_training_in_bf16_made(folder, tmp_path, add_up, capsys, refused):
    config = AttributionConfig(attribution_rule="midpoint", attribution_evaluations=2)
    make_store(folder, "mixed", config, autocast="bf16")
    html = f"--html {tmp_path / 'page.html'} --model_name_or_path"
    cli.main(line(folder, "mixed", f"{html} {folder / 'model'}").split())
    assert "do not quite add up" not in capsys.readouterr().out
    add_up(folder / "mixed")
    shown = refused("is not the model of the store", line(folder, "mixed", f"{html} {folder / 'other'}"))
    assert "weights of the attribution model (hash): stored" in shown
    assert "mixed precision" not in shown and "precision" not in shown


def test_the_store_of_a_training_run_in_bf16(folder, tmp_path, add_up):
    options = f"--output_dir {tmp_path / 'out'} --max_steps 1 --use_cpu --bf16 True --report_to none"
    rule = "--attribution_rule midpoint --attribution_evaluations 2"
    data = f"--model_name_or_path {folder / 'model'} --dataset_name {folder / 'traces.jsonl'}"
    cli.main(f"sft {data} {options} {rule}".split())
    (store,) = [path.parent for path in (tmp_path / "out").glob("_attributions/**/settings.json")]
    assert AttributionStore(store).settings.autocast == "bf16"
    html = f"--html {tmp_path / 'page.html'} --model_name_or_path {folder / 'model'}"
    cli.main(line(folder, store, html).split())
    add_up(store)


def test_tokens_of_a_store_of_another_precision(folder, tmp_path, add_up):
    """The store says how the weights were loaded, and no option has to."""
    attribute(folder, "half", "--dtype bfloat16 --attribution_rule midpoint --attribution_evaluations 2")
    cli.main(line(folder, "half", f"--html {tmp_path / 'page.html'} --model_name_or_path {folder / 'model'}").split())
    add_up(folder / "half")


def test_a_marginal_store_with_another_threshold(folder, tmp_path, capsys, refused):
    attribute(folder, "marginal", "--attribution_scorer marginal --attribution_threshold 0.25")
    capsys.readouterr()
    cli.main(line(folder, "marginal", "--selection threshold --color False").split())
    shown = " ".join(capsys.readouterr().out.split())
    assert "completeness gap" not in shown and "at the baseline" not in shown
    assert "strength at least 1" in shown
    store = AttributionStore(folder / "marginal")
    config, selection = stored_configs(store.settings, store.settings.trace_config())
    assert (config.attribution_scorer, config.attribution_threshold, selection) == ("marginal", 0.25, None)
    html = f"--html {tmp_path / 'page.html'}"
    cli.main(line(folder, "marginal", html).split())
    refused(
        "'marginal' scores segments as a whole, so there are no tokens",
        line(folder, "marginal", f"{html} --model_name_or_path {folder / 'model'}"),
    )


def test_a_store_that_is_for_thresholds_of_its_own(folder, tmp_path, add_up):
    decision = "--attribution_stop decision --tau 0.5 --keep_last 0"
    attribute(folder, "decision", decision)
    store = AttributionStore(folder / "decision")
    config, selection = stored_configs(store.settings, store.settings.trace_config())
    assert config.attribution_stop == "decision"
    assert (selection.tau, selection.keep_last) == (0.5, 0)
    html = f"--html {tmp_path / 'page.html'} --model_name_or_path {folder / 'model'}"
    cli.main(line(folder, "decision", f"{html} --tau 0.9").split())
    add_up(folder / "decision")


def test_an_adapter_that_was_off_or_on(folder, tmp_path, add_up, refused):
    peft = pytest.importorskip("peft")
    tokenizer = tiny_tokenizer()
    model = tiny_model(tokenizer)
    model.name_or_path = model.config._name_or_path = str(folder / "model")
    adapted = peft.get_peft_model(model, peft.LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False))
    adapted.save_pretrained(tmp_path / "adapter")
    rule = "--attribution_rule midpoint --attribution_evaluations 2"
    attribute(folder, "off", rule)
    attribute(folder, "on", f"{rule} --model_name_or_path {tmp_path / 'adapter'}")
    html = f"--html {tmp_path / 'page.html'} --model_name_or_path"
    for store in ("off", "on"):
        cli.main(line(folder, store, f"{html} {tmp_path / 'adapter'}").split())
        add_up(folder / store)
    shown = refused("is not the model of the store", line(folder, "on", f"{html} {folder / 'model'}"))
    assert "adapter of the attribution model (hash): stored" in shown and "weights" not in shown


@pytest.mark.parametrize("selection", ["all", "random"])
def test_a_selection_is_shown_as_training_makes_it(folder, capsys, selection):
    rule = "--attribution_rule midpoint --attribution_evaluations 2"
    attribute(folder, "plain", rule)
    row = next(row for row in AttributionStore(folder / "plain").values() if row.name == "sum-3")
    for seed in (1, 2, 3) if selection == "random" else (42,):
        capsys.readouterr()
        given = f"--seed {seed}" if selection == "random" else ""
        options = f"--selection {selection} {given} --tau 0.3 --keep_first 0 --keep_last 0 --color False"
        cli.main(line(folder, "plain", options).split())
        verdicts = re.findall(r"(?:kept|dropped), by chance|\bkept\b(?!, \d)", capsys.readouterr().out)
        config = SelectionConfig(selection=selection, seed=seed, tau=0.3, keep_first=0, keep_last=0)
        # The first match stands in the header
        assert tuple(verdicts[1:]) == select(row.segment_scores, config, row.key).verdicts


def test_options_without_an_effect_are_refused(folder, refused):
    attribute(folder, "plain", "--attribution_rule midpoint --attribution_evaluations 2")
    refused("--load_in_4bit has no effect without --model_name_or_path", line(folder, "plain", "--load_in_4bit"))
    refused("--seed has no effect without --selection random", line(folder, "plain", "--seed 1"))
    refused("unknown option --dataset_streaming", line(folder, "plain", "--dataset_streaming"))
    refused("unknown option --lora_r", line(folder, "plain", "--lora_r 3"))
    model = f"--model_name_or_path {folder / 'model'}"
    refused("only the page shows: pass --html FILE too", line(folder, "plain", model))
    refused("unknown option --dtype", line(folder, "plain", f"{model} --dtype float32"))
