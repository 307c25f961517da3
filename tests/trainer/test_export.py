"""
What other trainers make of an exported row, against the labels of the trainer.

Axolotl and ms-swift are not installed with this package. Their rules are quoted here, as their code of July and August
2026 has them, and two tests run that code itself where it can be imported.
"""

import copy
import json
import zlib
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import trl
from datasets import Dataset
from helpers import REAL_TOKENIZERS, real_rows, real_tokenizer, tiny_model, tiny_tokenizer

from trl_segment import SegmentSelectiveSFTTrainer, SelectionConfig, build_trace
from trl_segment.store import StoredAttribution
from trl_segment.trainer import export


QUESTION = "How many?"
SOLUTION = "<think>\nOne.\n\nWait, two.\n\nHowever, three.\n</think>\n\nSo \\boxed{3}."
ROW = {"question": QUESTION, "solution": SOLUTION, "answer": "3"}
# As every segment with a strength of 1 is kept, and no other
SELECTION = {"selection": "threshold", "min_strength": 1.0, "keep_first": 0, "keep_last": 0}


def store_of(rows, flags_of):
    """Scores with which exactly the flagged segments of each row are kept."""
    store = {}
    for index, row in enumerate(rows):
        trace = build_trace(row)
        assert trace.problem is None
        flags = [bool(flags_of(index, segment)) for segment in range(len(trace.segments))]
        scores = [2.0 if flag else 0.5 for flag in flags]
        store[trace.key] = StoredAttribution(trace.key, f"row {index}", None, [4] * len(flags), scores=scores)
    return store


def by_chance(index, segment):
    return zlib.crc32(f"{index} {segment}".encode()) % 2


def exported(tmp_path, rows, tokenizer, store, **options):
    refused = {}
    args = export.export_args(str(tmp_path / "out"), **{"max_length": None, **SELECTION, **options})
    found = list(export.labeled_rows(Dataset.from_list(rows), tokenizer, args, store, refused))
    return found, refused


def one_row(tmp_path, tokenizer, flags=(1, 0, 1), row=ROW, **options):
    store = store_of([row], lambda _, segment: flags[segment])
    (found,), refused = exported(tmp_path, [row], tokenizer, store, **options)
    assert refused == {}
    return found


def trained_pieces(tokenizer, labels):
    """Text of each run of trained tokens."""
    edges = np.flatnonzero(np.diff(np.r_[0, labels != -100, 0]))
    return [tokenizer.decode(labels[a:b]) for a, b in edges.reshape(-1, 2)]


def tokenizer_of(name):
    """A tokenizer at hand, with a template."""
    if name == "tiny":
        return tiny_tokenizer()
    tokenizer = copy.deepcopy(real_tokenizer(name))
    if tokenizer.chat_template is None:
        template = Path(trl.__file__).parent / "chat_templates" / f"{name}.jinja"
        tokenizer.chat_template = template.read_text(encoding="utf-8")
    return tokenizer


# By hand: the answer and the closing mark are trained, and the opening word of a dropped segment behind a kept one


def test_labels_by_hand(tmp_path, tokenizer):
    found = one_row(tmp_path, tokenizer)
    row, note = export.labels_row(found, tokenizer)
    assert list(row) == ["input_ids", "attention_mask", "labels"] and note is None
    assert tokenizer.decode(row["input_ids"]).endswith(f"<|im_start|>assistant\n{SOLUTION}<|im_end|>")
    assert row["attention_mask"] == [1] * len(row["input_ids"])
    # `.` and the blank line behind it are one token, of the segment that the `.` is in
    assert trained_pieces(tokenizer, np.array(row["labels"])) == [
        "<think>\nOne.\n\nWait",
        "However, three.\n</think>\n\nSo \\boxed{3}.<|im_end|>",
    ]
    assert all(label in (-100, token) for label, token in zip(row["labels"], row["input_ids"], strict=True))


@pytest.mark.parametrize(
    ("transition", "pieces"),
    [
        ("none", ["<think>\n", "However, three.\n</think>\n\nSo \\boxed{3}.<|im_end|>"]),
        ("every", ["<think>\nOne", "Wait", "However, three.\n</think>\n\nSo \\boxed{3}.<|im_end|>"]),
    ],
)
def test_the_transition_is_applied(transition, pieces, tmp_path, tokenizer):
    found = one_row(tmp_path, tokenizer, (0, 0, 1), transition=transition)
    assert trained_pieces(tokenizer, found.labels) == pieces


def test_parts_of_axolotl_by_hand(tmp_path, tokenizer):
    row, note = export.axolotl_row(one_row(tmp_path, tokenizer, completion_rendering="template"), tokenizer)
    user, assistant = row["messages"]
    assert user["role"] == "user" and user["train"] is False
    assert [part["text"].split("\n")[0] for part in user["content"]] == [QUESTION]
    assert assistant == {
        "role": "assistant",
        "train": True,
        "content": [
            {"type": "text", "text": "<think>\nOne.\n\nWait", "train": True},
            {"type": "text", "text": ", two.\n\n", "train": False},
            {"type": "text", "text": "However, three.\n</think>\n\nSo \\boxed{3}.", "train": True},
        ],
    }
    assert note == "'\\n' behind the end of the turn is trained by TRL and not by Axolotl"


def test_messages_of_ms_swift_by_hand(tmp_path, tokenizer):
    row, note = export.ms_swift_row(one_row(tmp_path, tokenizer, completion_rendering="template"), tokenizer)
    assert [message["role"] for message in row["messages"]] == ["user"] + 3 * ["assistant"]
    assert [(message["content"], message["loss_scale"]) for message in row["messages"][1:]] == [
        ("<think>\nOne.\n\nWait", 1.0),
        (", two.\n\n", 0.0),
        ("However, three.\n</think>\n\nSo \\boxed{3}.", 1.0),
    ]
    assert note is None


def test_weights_by_hand(tmp_path, tokenizer):
    options = {"dropped_segments": "weight", "kept_weight": 2.0, "dropped_weight": 0.25}
    found = one_row(tmp_path, tokenizer, **options)
    row, _ = export.weights_row(found, tokenizer)
    pieces = {}
    for token, weight in zip(row["input_ids"], row["weights"], strict=True):
        pieces[weight] = pieces.get(weight, "") + tokenizer.decode([token])
    prompt = pieces.pop(0.0)
    assert prompt.endswith("<|im_start|>assistant\n")
    # Outside of the reasoning a token weighs 1
    assert pieces == {
        1.0: "<think>\n</think>\n\nSo \\boxed{3}.<|im_end|>",
        2.0: "One.\n\nWaitHowever, three.\n",
        0.25: ", two.\n\n",
    }


# Against a trainer, for every tokenizer and real trace


@pytest.mark.parametrize("name", ["tiny", *REAL_TOKENIZERS])
def test_real_traces_have_the_labels_of_the_trainer(name, tmp_path):
    """An ordinary trainer with a model of this tokenizer, whose batches are looked at."""
    rows, tokenizer = real_rows(), tokenizer_of(name)
    store = store_of(rows, by_chance)
    found, refused = exported(tmp_path, rows, tokenizer, store)
    args = export.SegmentSelectiveSFTConfig(
        str(tmp_path / "other"), bf16=False, use_cpu=True, report_to=[], max_length=None, **SELECTION
    )
    trainer = SegmentSelectiveSFTTrainer(
        tiny_model(tokenizer), args, train_dataset=Dataset.from_list(rows), processing_class=tokenizer
    )
    trainer.select_segments(store, SelectionConfig(**SELECTION))
    batches = trainer.get_train_dataloader().collate_fn
    assert len(found) == len(rows) == 46 and refused == {}
    dropped = 0
    for row, other in zip(found, trainer.train_dataset, strict=True):
        batch = batches([other])
        assert batch["input_ids"][0].tolist() == row.input_ids.tolist()
        assert batch["labels"][0].tolist() == export.labels_row(row, tokenizer)[0]["labels"]
        dropped += int((row.labels == -100).sum())
        answer = tokenizer.decode(row.labels[row.labels != -100])
        assert answer.rstrip().removesuffix(tokenizer.eos_token).endswith(row.trace.completion[-40:].rstrip())
    assert dropped > 46 * 100


# As the others read rows


def axolotl_labels(row, tokenizer, eot_tokens):
    """
    `ChatTemplateStrategy._tokenize_single_prompt` with `roles_to_train: [assistant]` and `train_on_eos: turn`: the
    turn is found by a dummy message, the content is tokenized alone, a detail is widened to the tokens that it
    touches, a token is trained if it lies wholly in a widened detail, and the first end token within three of the end
    is too.
    """
    turns, details = [], None
    for message in row["messages"]:
        turns.append({"role": message["role"], "content": "".join(part["text"] for part in message["content"])})
    offset, details = 0, []
    for part in row["messages"][-1]["content"]:
        details.append((offset, offset + len(part["text"]) - 1, part["train"]))
        offset += len(part["text"])

    def build(turns):
        return tokenizer.apply_chat_template(turns, tokenize=True, return_dict=False)

    ids, dummy = build(turns), build([*turns[:-1], {"role": "assistant", "content": "[[dummy_message]]"}])
    labels = [-100] * len(ids)
    start = next(i for i in range(len(ids)) if ids[i] != dummy[i])
    end = next(len(ids) - i for i in range(len(ids)) if ids[len(ids) - 1 - i] != dummy[len(dummy) - 1 - i])
    content = turns[-1]["content"]
    pairs = tokenizer(content, return_offsets_mapping=True, add_special_tokens=False)["offset_mapping"]
    starts = np.array([pair[0] for pair in pairs])
    ends = np.array([*(starts[1:] - 1), len(content) - 1])
    for begin, last, train in details:
        after, before = np.flatnonzero(starts >= begin), np.flatnonzero(ends <= last)
        first = after[0] if len(after) else len(starts)
        if first > 0 and ends[first - 1] > begin:
            first -= 1
        final = before[-1] if len(before) else -1
        if final < len(starts) - 1 and starts[final + 1] < last:
            final += 1
        if first <= final and train:
            for i in np.flatnonzero((starts >= starts[first]) & (ends <= ends[final])):
                if start + i < len(ids):
                    labels[start + i] = ids[start + i]
    marks = [tokenizer.eos_token_id, *tokenizer.convert_tokens_to_ids(eot_tokens)]
    mark = next((i for i in range(end, len(ids)) if ids[i] in marks), None)
    if mark is not None and mark - end <= 3:
        labels[mark] = ids[mark]
    return ids, labels


def ms_swift_labels(row, tokenizer, prefix, suffix):
    """
    `Template._swift_encode`, `_simplify_context_list` and `_encode_context_list`: neighbors of one scale are joined,
    each piece is tokenized alone without special tokens, and a piece with a scale above 0 is trained.
    """
    pieces = [(prefix, 0.0)]
    pieces += [(m["content"], m["loss_scale"]) for m in row["messages"] if m["role"] == "assistant"]
    pieces += [(suffix, 1.0)]
    joined = []
    for text, scale in pieces:
        if joined and joined[-1][1] == scale:
            joined[-1] = (joined[-1][0] + text, scale)
        else:
            joined.append((text, scale))
    ids, labels = [], []
    for text, scale in joined:
        tokens = tokenizer(text, add_special_tokens=False)["input_ids"]
        ids += tokens
        labels += tokens if scale > 0 else [-100] * len(tokens)
    return ids, labels


def handed_over(found, tokenizer, form):
    """Rows as they come back from a file, and how many were refused, by reason."""
    records, refused = [], {}
    for row in found:
        try:
            records.append((row, json.loads(json.dumps(form(row, tokenizer)[0]))))
        except export.RowRefusedError as error:
            refused[str(error)] = refused.get(str(error), 0) + 1
    return records, refused


END_OF_TURN = {"tiny": "<|im_end|>", "qwen2": "<|im_end|>", "llama3": "<|eot_id|>", "phi3": "<|end|>"}


@pytest.mark.parametrize("name", ["tiny", *REAL_TOKENIZERS])
def test_others_train_the_tokens_of_real_traces_that_the_trainer_trains(name, tmp_path):
    # All 46 with each tokenizer take minutes; those of Phi-3, some of which are refused, are in the docs
    count = 46 if name == "phi3" else 12
    rows, tokenizer = sorted(real_rows(), key=lambda row: len(row["solution"]))[:count], tokenizer_of(name)
    end = tokenizer.convert_tokens_to_ids(END_OF_TURN[name])
    found, _ = exported(tmp_path, rows, tokenizer, store_of(rows, by_chance), completion_rendering="template")
    assert len(found) == count
    for form in (export.axolotl_row, export.ms_swift_row):
        records, refused = handed_over(found, tokenizer, form)
        for row, record in records:
            upto = len(row.input_ids) - row.input_ids[::-1].tolist().index(end)
            if form is export.axolotl_row:
                ids, labels = axolotl_labels(record, tokenizer, [END_OF_TURN[name]])
            else:
                content = row.trace.completion.strip()
                text = tokenizer.decode(row.input_ids)
                place = text.rindex(content)
                ids, labels = ms_swift_labels(record, tokenizer, text[:place], text[place + len(content) :])
            assert ids == row.input_ids.tolist()
            assert labels[:upto] == row.labels[:upto].tolist()
        if name == "phi3":
            # Its tokenizer puts a space in front of every text, so that pieces have other tokens than the whole
            assert sum(refused.values()) + len(records) == count
            assert len(records) == (22 if form is export.axolotl_row else 0)
        else:
            assert refused == {} and len(records) == count


def refusal(form, row, tokenizer):
    with pytest.raises(export.RowRefusedError) as refused:
        form(row, tokenizer)
    return str(refused.value)


def test_rows_that_others_would_read_otherwise_are_refused(tmp_path, tokenizer):
    """What they make of the labels is compared, whatever made them differ."""
    row = one_row(tmp_path, tokenizer, (1, 1, 1), completion_rendering="template")
    other = copy.deepcopy(tokenizer)
    other.chat_template = other.chat_template.replace("<|im_end|>\n", "<|im_end|>\n\n")
    assert other.chat_template != tokenizer.chat_template
    assert refusal(export.axolotl_row, row, other) == "its tokens are not those of its messages"
    untrained_end = copy.deepcopy(row)
    untrained_end.labels[-2] = -100
    assert tokenizer.decode(row.labels[-2:]) == "<|im_end|>\n"
    assert refusal(export.axolotl_row, untrained_end, tokenizer) == "Axolotl would train other tokens of it"
    assert refusal(export.ms_swift_row, untrained_end, tokenizer) == "ms-swift would train other tokens of it"
    trained_prompt = copy.deepcopy(row)
    trained_prompt.labels[:] = row.input_ids
    for form in (export.axolotl_row, export.ms_swift_row):
        assert refusal(form, trained_prompt, tokenizer) == "text in front of its last turn is trained"


def test_a_border_at_a_character_of_several_tokens_is_refused_by_the_rules_of_axolotl(tmp_path, tokenizer):
    """The tokens of an emoji share its place, so that Axolotl counts the first of them for the part in front."""
    solution = "<think>\nOne.🙂 two.\n</think>\n\nSo \\boxed{3}."
    row = one_row(tmp_path, tokenizer, (1,), {**ROW, "solution": solution}, completion_rendering="template")
    spans = tokenizer(solution, return_offsets_mapping=True)["offset_mapping"]
    numbers = [number for number, (start, _) in enumerate(spans) if start == solution.index("🙂")]
    assert len(numbers) > 1
    first = len(row.input_ids) - 2 - len(spans) + numbers[0]
    row.labels[first : first + len(numbers) + 2] = -100
    assert refusal(export.axolotl_row, row, tokenizer) == "Axolotl would train other tokens of it"
    # and rightly so. ms-swift tokenizes the pieces alone, and they are those of the whole
    record, _ = export.ms_swift_row(row, tokenizer)
    parts = [{"text": m["content"], "train": m["loss_scale"] > 0} for m in record["messages"][1:]]
    question = [{"text": record["messages"][0]["content"]}]
    messages = [{"role": "user", "content": question}, {"role": "assistant", "content": parts}]
    ids, labels = axolotl_labels({"messages": messages}, tokenizer, [])
    assert ids == row.input_ids.tolist()
    differ = np.flatnonzero(np.array(labels)[:-1] != row.labels[:-1])
    assert differ.tolist() == list(range(first, first + len(numbers) - 1))


def test_text_is_no_messages(tmp_path, tokenizer):
    row = {"prompt": "How many?\n", "completion": SOLUTION, "answer": "3"}
    found = one_row(tmp_path, tokenizer, row=row)
    export.labels_row(found, tokenizer)
    assert refusal(export.axolotl_row, found, tokenizer).startswith("it is text or tokens")


def test_turns_in_front_are_context(tmp_path, tokenizer):
    chat = [{"role": role, "content": text} for role, text in (("system", "S"), ("user", "A"), ("assistant", "B"))]
    last = {"role": "assistant", "content": SOLUTION}
    row = {"prompt": [*chat, {"role": "user", "content": QUESTION}], "completion": [last], "answer": "3"}
    found = one_row(tmp_path, tokenizer, row=row)
    record, _ = export.axolotl_row(found, tokenizer)
    assert [message["train"] for message in record["messages"]] == [False] * 4 + [True]
    record, _ = export.ms_swift_row(found, tokenizer)
    assert [message.get("loss_scale") for message in record["messages"]] == [None, None, 0, None, 1, 0, 1]
    messages = {"messages": [*row["prompt"], last], "answer": "3"}
    found = one_row(tmp_path, tokenizer, row=messages, assistant_only_loss=True)
    assert refusal(export.axolotl_row, found, tokenizer) == "text in front of its last turn is trained"
    messages["messages"] = [row["prompt"][-1], last]
    found = one_row(tmp_path, tokenizer, row=messages, assistant_only_loss=True)
    assert len(export.axolotl_row(found, tokenizer)[0]["messages"][-1]["content"]) == 3


def test_a_row_without_a_trained_token_is_refused_by_name(tmp_path, tokenizer):
    store = store_of([ROW], lambda *_: True)
    rows = [{**ROW, "id": "mine"}, {**ROW, "id": "other"}]
    rows[0]["question"] = "So?" * 200
    store = store_of(rows, lambda *_: True)
    found, refused = exported(tmp_path, rows, tokenizer, store, max_length=150)
    assert [row.name for row in found] == ["other"] and refused == {"no token of it is trained": ["mine"]}


def test_packing_is_refused(tmp_path, tokenizer):
    with pytest.raises(ValueError, match="exported one by one"):
        exported(tmp_path, [ROW], tokenizer, store_of([ROW], lambda *_: True), packing=True, max_length=64)


def test_every_segment_kept_is_the_whole_completion(tmp_path, tokenizer):
    (found,), _ = exported(tmp_path, [ROW], tokenizer, {}, selection="all")
    assert trained_pieces(tokenizer, found.labels) == [f"{SOLUTION}<|im_end|>"]


# The trainers themselves, where they can be imported (`pip install --no-deps` into a folder of its own is enough)


def short_real_traces(tmp_path, name):
    rows, tokenizer = sorted(real_rows(), key=lambda row: len(row["solution"]))[:4], tokenizer_of(name)
    found, _ = exported(tmp_path, rows, tokenizer, store_of(rows, by_chance), completion_rendering="template")
    return found, tokenizer, tokenizer.convert_tokens_to_ids(END_OF_TURN[name])


def check_up_to_the_end_of_the_turn(row, ids, labels, end):
    upto = len(row.input_ids) - row.input_ids[::-1].tolist().index(end)
    assert list(ids[:upto]) == row.input_ids[:upto].tolist()
    assert list(labels[:upto]) == row.labels[:upto].tolist()


@pytest.mark.parametrize("name", ["tiny", *REAL_TOKENIZERS])
def test_axolotl_itself_has_these_labels(name, tmp_path):
    axolotl = pytest.importorskip("axolotl.prompt_strategies.chat_template", reason="Axolotl is not installed")
    found, tokenizer, end = short_real_traces(tmp_path, name)
    prompter = axolotl.ChatTemplatePrompter(tokenizer, tokenizer.chat_template, message_field_training="train")
    strategy = axolotl.ChatTemplateStrategy(
        prompter,
        tokenizer=tokenizer,
        train_on_inputs=False,
        sequence_len=10**6,
        roles_to_train=["assistant"],
        train_on_eos="turn",
        eot_tokens=None if end == tokenizer.eos_token_id else [END_OF_TURN[name]],
    )
    records, _ = handed_over(found, tokenizer, export.axolotl_row)
    assert records
    for row, record in records:
        read = strategy.tokenize_prompt(record)
        check_up_to_the_end_of_the_turn(row, read["input_ids"], read["labels"], end)


@pytest.mark.parametrize("name", ["tiny", "qwen2", "llama3"])
def test_ms_swift_itself_has_these_labels(name, tmp_path):
    swift = pytest.importorskip("swift.template", reason="ms-swift is not installed")
    found, tokenizer, end = short_real_traces(tmp_path, name)
    # What its loader of models would say of the tokenizer
    names = {"task_type": "causal_lm", "config": None, "max_model_len": 10**6, "model_dir": "."}
    tokenizer.model_info = SimpleNamespace(**names)
    tokenizer.model_meta = SimpleNamespace(is_multimodal=False)
    # The system prompt that the chat template of Qwen2 writes by itself
    system = "You are a helpful assistant" if name == "qwen2" else None
    template = swift.get_template(tokenizer, system, template_type="llama3" if name == "llama3" else "chatml")
    template.set_mode("train")
    records, refused = handed_over(found, tokenizer, export.ms_swift_row)
    assert len(records) == 4 and refused == {}
    for row, record in records:
        read = template.encode(record)
        check_up_to_the_end_of_the_turn(row, read["input_ids"], read["labels"], end)
