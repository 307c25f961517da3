"""
Every fenced block of the README and the documentation, run page by page on the tiny world in an empty folder.

A block that cannot run here has the reason in front of it, `<!-- not run: needs a GPU -->`; of such a block it is
checked that commands, options and files exist and that Python compiles. A block with a title (`yaml title="a.yaml"`)
is written to that file, for the commands behind it.
"""

import dataclasses
import functools
import importlib
import json
import re
import runpy
import shlex
import shutil
import sys
from pathlib import Path

import pytest
import yaml
from accelerate.commands.launch import launch_command_parser
from dataset_forms import ON_THE_HUB, write_dataset
from helpers import REPOSITORY

from trl_segment import SegmentSelectiveSFTConfig
from trl_segment.cli import main as cli
from trl_segment.cli.start import start


WORLD = REPOSITORY / "examples" / "tiny_world"
PAGES = [REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").rglob("*.md"))]
ROWS = 2

# Names on the pages that stand for the reader's models and datasets; folders of these names come before the Hub
MODELS = (
    "MODEL",
    "OTHER_MODEL",
    "Qwen/Qwen2.5-1.5B-Instruct",
    "Qwen/Qwen2.5-7B-Instruct",
    "deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B",
    "deepseek-ai/DeepSeek-R1-Distill-Qwen-7B",
)
DATASETS = ("GAIR/LIMO",)

# What is put behind each command of a page, so that it takes seconds on one CPU core
SMALL = {
    "sft": "--max_steps 1 --max_length 256 --per_device_train_batch_size 1 --gradient_accumulation_steps 1 --use_cpu "
    "--bf16 False --report_to none --optim adamw_torch",
    "evaluate": "--max_problems 2 --max_new_tokens 32",
    "generate": "--max_problems 2 --max_new_tokens 1000",
}

RUN = {"bash", "python", "yaml"}
SHOWN = {"text", "diff", "bibtex"}


@dataclasses.dataclass
class Block:
    language: str
    title: str | None
    text: str
    line: int
    not_run: str | None


def blocks_of(page: Path) -> list[Block]:
    blocks, reason, lines = [], None, iter(enumerate(page.read_text(encoding="utf-8").splitlines(), 1))
    for number, line in lines:
        if marker := re.fullmatch(r"\s*<!-- not run: (.+) -->", line):
            reason = marker[1]
        elif fence := re.fullmatch(r"( *)```(\w*)(?: title=\"([^\"]+)\")?", line):
            indent, language, title = fence.groups()
            body = []
            for _, inner in lines:
                if inner.strip() == "```":
                    break
                body.append(inner.removeprefix(indent))
            blocks.append(Block(language, title, "\n".join(body) + "\n", number, reason))
            reason = None
        elif line.strip():
            assert reason is None, f"{page}:{number}: a marker belongs right in front of its block"
            assert "```" not in line, f"{page}:{number}: a fence that this test cannot read"
    return blocks


def commands_of(text: str) -> list[list[str]]:
    """Words of each command: lines that end in a backslash or inside quotes go on."""
    commands, pending = [], ""
    for line in text.replace("\\\n", " ").splitlines():
        pending += line
        try:
            words = shlex.split(pending, comments=True)
        except ValueError:  # a quote is open
            pending += " "
            continue
        pending = ""
        while words and re.match(r"[A-Za-z_]\w*=", words[0]):
            del words[0]
        if words:
            commands.append(words)
    assert not pending.strip(), f"an open quote in {text!r}"
    return commands


@functools.cache
def flags_of(command: str) -> dict:
    """The options of a `trl-segment` command, from its own parser."""
    return start(importlib.import_module(f"trl_segment.cli.{command}").COMMAND, [])._option_string_actions


def check_command(words: list[str]) -> None:
    """What can be said of a command without running it."""
    program, *rest = words
    options = [word.split("=")[0] for word in rest if word.startswith("--")]
    if program in ("accelerate", "torchrun"):
        # The program that is launched, behind the launcher's own options
        place = next(i for i, word in enumerate(rest) if word.endswith(".py") or word.startswith("trl_segment."))
        if program == "accelerate":
            launcher = launch_command_parser()._option_string_actions
            assert {word for word in rest[:place] if word.startswith("--")} <= launcher.keys()
        if rest[place].endswith(".py"):
            check_command(["python", *rest[place:]])
        else:
            check_command(["trl-segment", rest[place].rsplit(".", 1)[-1], *rest[place + 1 :]])
    elif program == "trl-segment":
        command = rest[0]
        if command in ("--version", "--help"):
            return
        known = flags_of(command).keys() | {"--config"}
        if command == "sft":
            known |= launch_command_parser()._option_string_actions.keys() | {"--accelerate_config"}
        assert set(options) <= known, f"{command} has no {set(options) - known}"
    elif program in ("python", "python3"):
        if rest[0] == "-m":
            return
        script = REPOSITORY / rest[0]
        assert script.is_file(), rest[0]
        source = script.read_text(encoding="utf-8")
        known = flags_of("sft").keys() if "SegmentSelectiveSFTConfig" in source else set()
        assert all(option in known or option in source for option in options), options
    elif program == "make":
        makefile = (REPOSITORY / "Makefile").read_text(encoding="utf-8")
        assert all(re.search(rf"^{target}:", makefile, re.MULTILINE) for target in rest)
    elif program == "pip":
        for extras in re.findall(r"\[([\w,]+)\]", " ".join(rest)):
            known = (REPOSITORY / "setup.cfg").read_text(encoding="utf-8")
            assert all(re.search(rf"^{extra} =$", known, re.MULTILINE) for extra in extras.split(","))
    else:
        assert program in ("git", "cd", "hf", "source", "export"), f"{program} is neither run nor checked"


@pytest.fixture(scope="module")
def first_rows():
    lines = (WORLD / "traces.jsonl").read_text(encoding="utf-8").splitlines()
    return "\n".join(lines[:ROWS]) + "\n"


@pytest.fixture(scope="module")
def scores(tmp_path_factory, first_rows):
    """The store that the pages call `scores`, made once as they make it."""
    folder = tmp_path_factory.mktemp("scores")
    (folder / "traces.jsonl").write_text(first_rows, encoding="utf-8")
    command = f"attribute --model_name_or_path {WORLD / 'checkpoint'} --dataset_name {folder / 'traces.jsonl'}"
    cli.main(shlex.split(f"{command} --attributions {folder / 'scores'}"))
    return folder / "scores"


@pytest.fixture
def reader(tmp_path, monkeypatch, first_rows, scores):
    """A folder in which everything that the pages take for granted is there."""
    shutil.copytree(REPOSITORY / "examples", tmp_path / "examples", ignore=shutil.ignore_patterns("tiny_world"))
    (tmp_path / "examples" / "tiny_world").mkdir()
    for path in WORLD.iterdir():
        if path.name != "traces.jsonl":
            (tmp_path / "examples" / "tiny_world" / path.name).symlink_to(path)
    for name in ("traces.jsonl", "examples/tiny_world/traces.jsonl"):
        (tmp_path / name).write_text(first_rows, encoding="utf-8")
    shutil.copy(WORLD / "problems.jsonl", tmp_path / "problems.jsonl")
    for name in ("scores", "other_scores"):
        shutil.copytree(scores, tmp_path / name)
    for name in MODELS:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).symlink_to(WORLD / "checkpoint")
    for name in DATASETS:
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "train.jsonl").write_text(first_rows, encoding="utf-8")
    for name, parts in ON_THE_HUB.items():
        write_dataset(tmp_path / name, parts)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(SegmentSelectiveSFTConfig, "__post_init__", _small(SegmentSelectiveSFTConfig.__post_init__))
    return tmp_path


def _small(original):
    def post_init(self):
        self.max_steps, self.max_length, self.per_device_train_batch_size = 1, 256, 1
        self.use_cpu, self.bf16, self.report_to = True, False, "none"
        if self.attributions is None:
            self.attribution_rule, self.attribution_evaluations = "midpoint", 2
        original(self)

    return post_init


def run(block: Block, page: Path, namespace: dict, written: set) -> None:
    if block.title:
        Path(block.title).write_text(block.text, encoding="utf-8")
        written.add(block.title)
    if block.language == "yaml":
        assert block.title, "a configuration needs the name of its file"
        assert yaml.safe_load(block.text)
    elif block.language == "python" and not block.title:
        exec(compile(block.text, f"{page.name}:{block.line}", "exec"), namespace)
    elif block.language == "bash":
        for program, *words in commands_of(block.text):
            written -= set(words)
            if program == "trl-segment":
                check_command([program, *words])
                for name in words[words.index("--config") + 1 :][:1] if "--config" in words else []:
                    keys = yaml.safe_load(Path(name).read_text(encoding="utf-8")).keys()
                    assert {f"--{key}" for key in keys} <= flags_of(words[0]).keys()
                # Outputs that are graded as they are take no decoding options
                small = "" if "--outputs" in words else SMALL.get(words[0], "")
                cli.main([*words, *shlex.split(small)])
            else:
                assert program == "python", f"{program} cannot run in a test: say why in front of the block"
                with pytest.MonkeyPatch.context() as patch:
                    patch.setattr(sys, "argv", words)
                    runpy.run_path(words[0], run_name="__main__")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(REPOSITORY)))
def test_blocks_run(page, request):
    blocks = blocks_of(page)
    assert {block.language for block in blocks} <= RUN | SHOWN
    for block in blocks:
        if block.not_run and block.language == "bash":
            for words in commands_of(block.text):
                check_command(words)
        elif block.not_run and block.language == "python":
            compile(block.text, f"{page.name}:{block.line}", "exec")
    live = [block for block in blocks if block.language in RUN and not block.not_run]
    if live:
        request.getfixturevalue("reader")
        namespace, written = {"__name__": "__main__"}, set()
        for block in live:
            run(block, page, namespace, written)
        assert not written, f"{written} of {page.name} is used by no command"


def test_markers_and_continuations_are_read(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(
        "<!-- not run: needs a GPU -->\n\n```bash\nA=1 trl-segment sft \\\n  --tau 0.5 # why\nmake demo\n```\n"
        '\n```python title="a.py"\n1 / 0\n```\n'
    )
    first, second = blocks_of(page)
    assert (first.not_run, second.not_run, second.title) == ("needs a GPU", None, "a.py")
    assert commands_of(first.text) == [["trl-segment", "sft", "--tau", "0.5"], ["make", "demo"]]
    page.write_text("<!-- not run: why -->\ntext\n```bash\nls\n```\n")
    with pytest.raises(AssertionError, match="right in front"):
        blocks_of(page)


@pytest.mark.parametrize(
    "line",
    [
        "trl-segment sft --taux 1",
        "trl-segment attribute --config x --num_processes 2",
        "accelerate launch --no_such_option --module trl_segment.cli.sft",
        "accelerate launch examples/segment_selective_sft.py --taux 1",
        "python examples/no_such_script.py",
        "make nothing",
        'pip install "trl-segment[nothing]"',
        "rm file",
    ],
)
def test_wrong_commands_that_are_not_run_are_found(line):
    with pytest.raises(AssertionError):
        check_command(shlex.split(line))


def trains(words: list[str]) -> bool:
    """Whether a command starts a training run of this package."""
    if words[:2] == ["trl-segment", "sft"] or "trl_segment.cli.sft" in words:
        return True
    scripts = [REPOSITORY / word for word in words if word.endswith(".py") and (REPOSITORY / word).is_file()]
    return any("SegmentSelectiveSFTConfig, ModelConfig" in path.read_text(encoding="utf-8") for path in scripts)


@pytest.mark.parametrize(
    "page",
    [*PAGES, *sorted((REPOSITORY / "examples").rglob("*.md")), *sorted((REPOSITORY / "examples").glob("*.py"))],
    ids=lambda page: str(page.relative_to(REPOSITORY)),
)
def test_what_trains_says_how_long_a_row_may_be(page):
    """TRL cuts rows after 1,024 tokens, and most of a long trace, its answer too, is then not trained."""
    text = page.read_text(encoding="utf-8")
    blocks = [(found[1], found[2]) for found in re.finditer(r"```(\w+)(?: title=[^\n]+)?\n(.*?)```", text, re.DOTALL)]
    inline = re.findall(
        r"`((?:trl-segment|python|accelerate) [^`]+)`", re.sub(r"```.*?```", "", text, flags=re.DOTALL)
    )
    files = {block.title: block.text for block in blocks_of(page) if block.title} if page.suffix == ".md" else {}
    for language, block in [*blocks, *(("bash", line) for line in inline)]:
        if language == "python" and re.search(r"SFTTrainer\(\n", block):
            assert "max_length" in block, block
        for words in commands_of(block) if language == "bash" else ():
            # What a sentence says of the command is not all of its options
            if not trains(words) or not {"--output_dir", "--config", "--model_name_or_path"} & set(words):
                continue
            # An assignment in front of the commands holds options that several share
            said = f"{words}{block if '$' in str(words) else ''}"
            for name in words[words.index("--config") + 1 :][:1] if "--config" in words else ():
                said += files.get(name) or (REPOSITORY / name).read_text(encoding="utf-8")
            assert "max_length" in said, shlex.join(words)


def test_every_example_configuration_says_how_long_a_row_may_be():
    for path in (REPOSITORY / "examples").glob("*.yaml"):
        config = yaml.safe_load(path.read_text(encoding="utf-8"))
        assert "max_length" in config or "output_dir" not in config, path


def test_the_diff_of_the_readme_names_what_there_is():
    (diff,) = [block for block in blocks_of(PAGES[0]) if block.language == "diff"]
    before, after = ({}, {})
    for line in diff.text.splitlines():
        exec(line[2:], before if line.startswith("-") else after)
    assert issubclass(after["SFTTrainer"], before["SFTTrainer"])
    assert issubclass(after["SFTConfig"], before["SFTConfig"])


def test_quoted_messages_are_in_the_source():
    """Troubleshooting is found by searching for a message, so it has to be the one that the code prints."""
    page = (REPOSITORY / "docs" / "troubleshooting.md").read_text(encoding="utf-8")
    quoted = re.findall(r"^## `(.+)`$", page, re.MULTILINE)
    assert len(quoted) > 20
    assert len(quoted) == len(re.findall(r"^## .+$", page, re.MULTILINE))
    source = " ".join(path.read_text(encoding="utf-8") for path in sorted((REPOSITORY / "trl_segment").rglob("*.py")))
    # Strings that continue on the next line, and the fields in them, which the page leaves out as ...
    source = re.sub(r"\"\s+f?r?\"", "", source).replace("{{", "{").replace("}}", "}")
    for message in quoted:
        parts = [part for part in re.split(r"\s*\.\.\.\s*", message) if part]
        pattern = r"[^\n]{0,160}?".join(map(re.escape, parts))
        assert max(map(len, parts)) >= 12, f"{message!r} would be found anywhere"
        assert re.search(pattern, source), message


def test_json_of_the_world_is_what_the_pages_say():
    row = json.loads((WORLD / "traces.jsonl").read_text(encoding="utf-8").splitlines()[0])
    assert {"question", "solution", "answer"} <= row.keys()
