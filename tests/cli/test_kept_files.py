"""What commands keep between runs is keyed by all that it depends on; what they did not make, they leave alone."""

import json
import os
from pathlib import Path

import pytest
from helpers import make_rows, tiny_model, tiny_tokenizer

from trl_segment.cli import main as cli
from trl_segment.evaluation.outputs import OutputFile


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    folder = tmp_path_factory.mktemp("world")
    tokenizer = tiny_tokenizer()
    tiny_model(tokenizer).save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    return folder


def write(file, rows):
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def read(file):
    return [json.loads(line) for line in Path(file).read_text().splitlines()]


def problems(number=2, **changes):
    return [
        {"id": i, "question": row["question"], "answer": row["answer"], **changes}
        for i, row in enumerate(make_rows(number))
    ]


def evaluate(world, output, *sets, extra=()):
    line = ["evaluate", "--models", world / "model", "--problems", *sets, "--max_new_tokens", 8]
    cli.main([str(word) for word in [*line, "--output_dir", output, "--json", output / "all.json", *extra]])
    return json.loads((output / "all.json").read_text())["rows"]


def test_a_corrected_answer_changes_the_verdict_and_no_output_is_made_again(world, tmp_path):
    file = write(tmp_path / "set.jsonl", problems(1))
    evaluate(world, tmp_path / "out", file)
    (kept,) = (tmp_path / "out" / "model").glob("*.jsonl")
    (record,) = read(kept)
    # As the model would have written a right one
    record.pop("checksum")
    record["solution"] = "It is \\boxed{7}."
    kept.unlink()
    settings = json.loads(kept.with_suffix(".settings.json").read_text())
    with OutputFile(kept, settings) as file_of_outputs:
        file_of_outputs.append(record)
    before = kept.read_bytes()
    for answer, verdict in (("7", "correct"), ("8", "wrong"), ("7", "correct")):
        write(file, problems(1, answer=answer))
        (row,) = evaluate(world, tmp_path / "out", file)
        assert row["verdict"] == verdict
    assert kept.read_bytes() == before


def test_two_problem_sets_of_one_file_name_have_files_of_their_own(world, tmp_path):
    a = write(tmp_path / "a" / "test.jsonl", problems(2))
    b = write(tmp_path / "b" / "test.jsonl", problems(3)[2:])
    rows = evaluate(world, tmp_path / "out", a, b)
    files = sorted((tmp_path / "out" / "model").glob("*.jsonl"))
    assert [len(read(file)) for file in files] == [2, 1] and len(rows) == 3


@pytest.mark.parametrize("changed", ["config.json", "tokenizer.json", "generation_config.json"])
def test_outputs_of_a_model_that_computes_otherwise_are_refused(changed, tmp_path, refused):
    """The weights alone do not make the outputs."""
    tokenizer = tiny_tokenizer()
    model = tiny_model(tokenizer)
    model.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    file = write(tmp_path / "set.jsonl", problems(1))
    evaluate(tmp_path, tmp_path / "out", file)
    path = tmp_path / "model" / changed
    values = json.loads(path.read_text())
    if changed == "config.json":
        values["rms_norm_eps"] = 0.1
    elif changed == "generation_config.json":
        values["eos_token_id"] = [2, 9]
    else:
        values["model"]["merges"].pop()
    path.write_text(json.dumps(values))
    line = ["evaluate", "--models", tmp_path / "model", "--problems", file, "--max_new_tokens", 8]
    refused("were made with other settings", [*line, "--output_dir", tmp_path / "out"])


def test_a_second_run_on_the_same_file_is_refused_while_the_first_is_at_work(world, tmp_path, refused):
    file = write(tmp_path / "set.jsonl", problems(1))
    evaluate(world, tmp_path / "out", file)
    (kept,) = (tmp_path / "out" / "model").glob("*.jsonl")
    with OutputFile(kept, json.loads(kept.with_suffix(".settings.json").read_text())):
        line = ["evaluate", "--models", world / "model", "--problems", file, "--max_new_tokens", 8]
        refused("Another run is writing to", [*line, "--output_dir", tmp_path / "out"])
    evaluate(world, tmp_path / "out", file)


def test_a_changed_record_is_made_again(tmp_path):
    with OutputFile(tmp_path / "x.jsonl", {"model": 1}) as file:
        for i in range(3):
            file.append({"id": str(i), "sample": 0, "prompt": "p", "solution": "é\ud800"})
    changed = (tmp_path / "x.jsonl").read_bytes().replace(b'"id": "1"', b'"id": "2"')
    (tmp_path / "x.jsonl").write_bytes(changed)
    assert [key[0] for key in OutputFile(tmp_path / "x.jsonl", {"model": 1}).records] == ["0", "2"]


@pytest.mark.parametrize("content", ["notes of mine", '{"id": "a", "solution": "mine"}\n'])
def test_a_file_that_is_not_ours_is_not_touched(content, tmp_path):
    (tmp_path / "x.jsonl").write_text(content)
    with pytest.raises(ValueError, match="was not made by this package"):
        OutputFile(tmp_path / "x.jsonl", {"model": 1})
    assert (tmp_path / "x.jsonl").read_text() == content
    assert [path.name for path in tmp_path.iterdir()] == ["x.jsonl"]


# generate


def generate(world, dataset, problem_set):
    line = ["generate", "--model_name_or_path", world / "model", "--problems", problem_set, "--max_new_tokens", 4]
    return [*line, "--samples", 1, "--dataset", dataset]


def test_no_solution_writes_no_dataset(world, tmp_path, refused):
    file = write(tmp_path / "set.jsonl", problems(2))
    for _ in range(2):
        refused(
            "no problem has a correct solution, so .* was not written", generate(world, tmp_path / "own.jsonl", file)
        )
        assert not (tmp_path / "own.jsonl").exists()


def test_a_dataset_of_an_earlier_run_outlives_one_without_a_solution(world, tmp_path, refused):
    file = write(tmp_path / "set.jsonl", problems(2))
    refused("no problem", generate(world, tmp_path / "own.jsonl", file))
    write(tmp_path / "own.jsonl", [{"question": "q"}])
    refused("no problem", generate(world, tmp_path / "own.jsonl", file))
    assert read(tmp_path / "own.jsonl") == [{"question": "q"}]


@pytest.mark.parametrize("by", ["name", "link", "outputs"])
def test_the_problem_set_is_never_written_over(by, world, tmp_path, refused):
    name = "own.outputs.jsonl" if by == "outputs" else "set.jsonl"
    file = write(tmp_path / name, problems(2))
    before = file.read_bytes()
    dataset = {"name": file, "link": tmp_path / "own.jsonl", "outputs": tmp_path / "own.jsonl"}[by]
    if by == "link":
        os.symlink(file, dataset)
    refused("would take the place of the problem set", generate(world, dataset, file))
    assert file.read_bytes() == before


def test_a_file_that_generate_did_not_make_is_left_alone(world, tmp_path, refused):
    file = write(tmp_path / "set.jsonl", problems(2))
    (tmp_path / "mine.jsonl").write_text("mine")
    refused("was not made by this command", generate(world, tmp_path / "mine.jsonl", file))
    assert (tmp_path / "mine.jsonl").read_text() == "mine"


def test_datasets_that_differ_in_their_ending_have_outputs_of_their_own(world, tmp_path, refused):
    file = write(tmp_path / "set.jsonl", problems(2))
    names = ("own.jsonl", "own.json", "own", "own.json.jsonl")
    for name in names:
        refused("no problem has a correct solution", generate(world, tmp_path / name, file))
    outputs = sorted(path.name for path in tmp_path.glob("own*outputs.jsonl"))
    assert outputs == ["own-outputs.jsonl", "own.json-outputs.jsonl", "own.json.outputs.jsonl", "own.outputs.jsonl"]
    # What vouches for one does not vouch for another
    (tmp_path / "own.json-outputs.jsonl").unlink()
    (tmp_path / "own.json").write_text("mine")
    refused("was not made by this command", generate(world, tmp_path / "own.json", file))


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
@pytest.mark.parametrize("name", ["outputs.jsonl", "outputs.settings.json"])
def test_outputs_that_are_a_pipe_are_not_waited_for(name, tmp_path):
    (tmp_path / "outputs.jsonl").write_text("{}\n")
    (tmp_path / name).unlink(missing_ok=True)
    os.mkfifo(tmp_path / name)
    with pytest.raises(ValueError, match=f"{name}' is a pipe and no file"):
        OutputFile(tmp_path / "outputs.jsonl", {"weights": "0"})


# tune, merge and report


@pytest.fixture(scope="module")
def attributed(world):
    write(world / "traces.jsonl", make_rows(3))
    rule = "--attribution_rule midpoint --attribution_evaluations 2"
    data = f"--dataset_name {world / 'traces.jsonl'} --attributions {world / 'store'}"
    cli.main(f"attribute --model_name_or_path {world / 'model'} {data} {rule}".split())
    return world


def gains(world, output):
    line = f"tune --dataset_name {world / 'traces.jsonl'} --attributions {world / 'store'} --keep_last 0"
    cli.main(f"{line} --model_name_or_path {world / 'model'} --output_dir {output}".split())
    return [record["log_probs"] for record in read(output / "gains.jsonl")]


def test_gains_are_made_again_when_the_chat_template_has_changed(attributed, tmp_path, monkeypatch):
    pytest.importorskip("matplotlib")
    first = gains(attributed, tmp_path / "tune")
    assert gains(attributed, tmp_path / "tune") == first, "nothing is made twice"
    template = attributed / "model" / "chat_template.jinja"
    before = template.read_text()
    # Far in front of what the last characters of the prompt show
    template.write_text("Be brief.\n" + before)
    try:
        changed = gains(attributed, tmp_path / "tune")
    finally:
        template.write_text(before)
    assert len(changed) == 6 and changed[:3] == first and changed[3:] != first


def test_a_refused_merge_leaves_nothing_behind(attributed, tmp_path, refused):
    other = "--attribution_rule midpoint --attribution_evaluations 3"
    data = f"--dataset_name {attributed / 'traces.jsonl'} --attributions {tmp_path / 'other'}"
    cli.main(f"attribute --model_name_or_path {attributed / 'model'} {data} {other}".split())
    refused(
        "other settings",
        f"merge --stores {attributed / 'store'} {tmp_path / 'other'} --attributions {tmp_path / 'all'}",
    )
    assert not (tmp_path / "all").exists()
    cli.main(f"merge --stores {tmp_path / 'other'} --attributions {tmp_path / 'all'}".split())


def test_a_report_inside_a_store_leaves_it_mergeable(attributed, tmp_path):
    pytest.importorskip("matplotlib")
    cli.main(f"merge --stores {attributed / 'store'} --attributions {tmp_path / 'a'}".split())
    cli.main(f"report --attributions {tmp_path / 'a'} --output_dir {tmp_path / 'a'}".split())
    cli.main(f"merge --stores {tmp_path / 'a'} --attributions {tmp_path / 'b'}".split())
    names = {path.name for path in (tmp_path / "b").iterdir()}
    assert names == {"settings.json", ".locks"} | {name for name in names if name.startswith("part-")}


def test_settings_of_somebody_else_are_not_overwritten(tmp_path):
    theirs = tmp_path / "outputs.settings.json"
    theirs.write_text('{"mine": 1}')
    with pytest.raises(ValueError, match="was not made by this package"):
        OutputFile(tmp_path / "outputs.jsonl", {"weights": "0"})
    assert theirs.read_text() == '{"mine": 1}'
    # Those of a file that was deleted to begin anew are ours
    theirs.write_text('{"weights": "1"}')
    OutputFile(tmp_path / "outputs.jsonl", {"weights": "0"}).close()
    assert json.loads(theirs.read_text()) == {"weights": "0"}
