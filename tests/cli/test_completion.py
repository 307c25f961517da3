"""Completion scripts, sourced by the shells that are there."""

import shlex
import shutil
import subprocess

import pytest

from trl_segment.cli import main as cli


pytest.importorskip("shtab")

# What bash does when a person presses the tab key behind the last word
_PRESS_TAB = """
source {script}
complete -p trl-segment > /dev/null
COMP_WORDS=({words}); COMP_CWORD=$(( ${{#COMP_WORDS[@]}} - 1 )); COMPREPLY=()
$(complete -p trl-segment | sed 's/.*-F \\([^ ]*\\).*/\\1/')
printf '%s\\n' "${{COMPREPLY[@]}}"
"""


@pytest.fixture(scope="module")
def scripts(tmp_path_factory):
    folder = tmp_path_factory.mktemp("completion")
    with pytest.MonkeyPatch.context() as patch:
        for shell in ("bash", "zsh", "fish"):
            lines = []
            patch.setattr("builtins.print", lambda *words, kept=lines, **_: kept.append(" ".join(words)))
            cli.main(["completion", shell])
            (folder / shell).write_text("\n".join(lines) + "\n")
    return folder


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_scripts_are_valid_and_hold_every_command(scripts, shell):
    text = (scripts / shell).read_text()
    assert all(command in text for command in cli.COMMANDS)
    # Ours, TRL's and the launcher's way of naming a folder
    assert all(option in text for option in ("attribution_rule", "learning_rate", "lora_r", "traceback"))
    if shutil.which(shell):
        subprocess.run([shell, "-n", scripts / shell], check=True)


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("eva", {"evaluate"}),
        ("completion z", {"zsh"}),
        ("attribute --attributions x --shar", {"--shard"}),
        ("attribute --attribution_rule hy", {"hybrid"}),
        ("attribute --dry_run T", {"True"}),
        ("sft --learning_r", {"--learning_rate"}),
        ("sft --dropped_segments pr", {"prune"}),
        ("merge --stores a --attr", {"--attributions"}),
        ("export --output labels.j", {"labels.jsonl"}),
    ],
)
def test_bash_completes_commands_options_and_values(scripts, tmp_path, line, found):
    (tmp_path / "labels.jsonl").touch()
    words = shlex.join(["trl-segment", *line.split()])
    code = _PRESS_TAB.format(script=scripts / "bash", words=words)
    done = subprocess.run(["bash", "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert set(done.stdout.split()) == found, done.stderr


def test_another_shell_is_refused(refused):
    refused("'tcsh' was passed, but one shell is needed: bash, zsh, fish", "completion tcsh")
    refused("'nothing' was passed", "completion")
