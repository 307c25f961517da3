"""Trains the base model of the tiny world from scratch, on one core.

    python examples/tiny_world/train_base.py
    python examples/tiny_world/train_base.py --quick --output_dir /tmp/tiny_world    # does it run at all: a minute

writes `checkpoint/`, `learning_curve.json`, `traces.jsonl` and `problems.jsonl`.

The training text is every kind of trace of the world in full, redundancy included, from short to long, in the chat
format the model is prompted with. Some of it guesses without correcting itself, so that the model that comes out makes
mistakes a better selection of segments can cure.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import random
import sys
import time
from dataclasses import replace
from pathlib import Path


# One thread is many times faster than two on tensors this small. Has to be said before torch loads its runtime.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import AutoTokenizer, GenerationConfig, PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM


HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))

import world  # noqa: E402


CHAT_TEMPLATE = """{%- for message in messages %}
    {{- '<|im_start|>' + message.role + '\\n' }}
    {%- if message.role == 'assistant' %}
        {%- generation %}{{- message.content + '<|im_end|>' }}{%- endgeneration %}
    {%- else %}
        {{- message.content + '<|im_end|>' }}
    {%- endif %}
    {{- '\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
{%- endif %}
"""

# What the model is trained on; the world has more, which it meets in the study only
SETTINGS = ("detours", "repetition")

# Qwen2's own split: `AutoTokenizer` puts it in place whatever the file says, once it sees a Qwen2 model beside it.
_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)

# What may stand between the reasoning and the suffix: users of the checkpoint cut traces in different places.
_SUFFIX_GAPS = ("\n", "\n\n", " ", "")


def build_tokenizer(vocab_size: int = 720, n_traces: int = 600) -> PreTrainedTokenizerFast:
    """
    Trains a byte-level BPE tokenizer on the world's text.

    Args:
        vocab_size (`int`, defaults to `720`):
            Entries including 256 bytes and three special tokens; enough for every word of the world to be one token.
        n_traces (`int`, defaults to `600`):
            Traces of each setting to train on.

    Returns:
        `PreTrainedTokenizerFast`: pad `<|endoftext|>`, eos `<|im_end|>`, with the chat template.
    """
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_SPLIT), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    backend.decoder = decoders.ByteLevel()
    backend.post_processor = processors.ByteLevel(trim_offsets=False)
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=special,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )

    def texts():
        for name in SETTINGS:
            for row in world.make_rows(name, n_traces, split="tokenizer"):
                yield "user\n" + row["question"] + world.PROMPT_SUFFIX
                # No word ever touches a brace here, or `{` would be merged with it and the answer would begin inside a
                # token; a word without a space before it gets its token from the lines below.
                yield "assistant\n" + row["solution"].replace("text{", "text{ ")
                yield world.ANSWER_SUFFIX
        for word in world.REGISTERS:
            yield from [word] * n_traces

    backend.train_from_iterator(texts(), trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        additional_special_tokens=["<|im_start|>"],
        clean_up_tokenization_spaces=False,
        model_max_length=2048,
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def build_model(tokenizer: PreTrainedTokenizerFast, seed: int) -> Qwen2ForCausalLM:
    """
    Builds the untrained model, about 0.57M parameters in float32.

    Args:
        tokenizer (`PreTrainedTokenizerFast`):
            Gives the vocabulary size and the special ids.
        seed (`int`):
            Seed of the weights.

    Returns:
        `Qwen2ForCausalLM`: the model, in training mode.
    """
    torch.manual_seed(seed)
    config = Qwen2Config(
        vocab_size=len(tokenizer),
        hidden_size=128,
        intermediate_size=256,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=2048,
        tie_word_embeddings=True,
        # The usual 0.02 leaves so narrow a model on a plateau: it long finds no contents in the context.
        initializer_range=0.06,
        # A padding index would zero its embedding row and keep it from training, and a zero pad baseline makes
        # Integrated Gradients meaningless. The id is set once the model is trained.
        pad_token_id=None,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
    )
    return Qwen2ForCausalLM(config)


def prompt_text(tokenizer: PreTrainedTokenizerFast, question: str) -> str:
    """The rendered prompt of a question, with the generation prompt."""
    messages = [{"role": "user", "content": question + world.PROMPT_SUFFIX}]
    return tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)


class Documents:
    """
    Endless batches of training documents, a function of the seed.

    Args:
        tokenizer (`PreTrainedTokenizerFast`):
            The tokenizer.
        seed (`int`):
            Seed of the text.
        careless (`float`):
            Share of wrong guesses that are never corrected.
        suffix_share (`float`):
            Share of documents that break off once the answer can be read from the reasoning, and give it after
            `</think> So, the final answer is` (what attribution asks for).
        answer_weight (`float`):
            Weight of the loss on the tokens in the box.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerFast,
        seed: int,
        careless: float,
        suffix_share: float,
        answer_weight: float,
    ) -> None:
        self.tokenizer = tokenizer
        self.rng = random.Random(f"documents/{seed}")
        self.seed, self.careless, self.suffix_share, self.answer_weight = seed, careless, suffix_share, answer_weight
        self.count = 0
        self.batches: list[list[tuple[list[int], list[float]]]] = []

    def settings(self, progress: float) -> world.WorldSettings:
        """The setting of the next document at a share of the training in [0, 1]: short ones first."""
        base = world.SETTINGS[self.rng.choice(SETTINGS)]
        stage = self.rng.random()
        if progress < 0.12 or stage < 0.10:
            # Mostly naming again what was found: to look a register up by its name is what takes longest to learn
            length = {"steps": (1, 4), "redundancy": (0, 3)}
            length |= {"restatement": 0.6, "verification": 0.2, "filler": 0.05, "digression": 0.1, "error": 0.05}
        elif progress < 0.35 or stage < 0.45:
            # As many steps as there are, and little around them: lines of the question are looked up by name too
            length = {"steps": (4, 8), "redundancy": (0, 1)}
        else:
            length = {}
        return replace(base, careless=self.careless, **length)

    def document(self, progress: float) -> tuple[list[int], list[float]]:
        """One document: its ids, and the weights of their losses: 0 where the user speaks (a random question teaches
        nothing), `answer_weight` inside the box (a few tokens in hundreds), else 1."""
        trace = world.sample(self.settings(progress), f"train/{self.seed}/{self.count}")
        self.count += 1
        prompt = prompt_text(self.tokenizer, trace.problem.question)
        if self.rng.random() < self.suffix_share:
            n = self.rng.randint(trace.first_answerable(), len(trace.segments))
            reasoning = "\n\n".join(s.text for s in trace.segments[:n]) + self.rng.choice(_SUFFIX_GAPS)
            completion = f"<think>\n{reasoning}{world.ANSWER_SUFFIX}{trace.boxed}}}<|im_end|>"
        else:
            completion = f"{trace.solution}<|im_end|>\n"
        p = self.tokenizer(prompt, add_special_tokens=False)["input_ids"]
        encoded = self.tokenizer(completion, add_special_tokens=False, return_offsets_mapping=True)
        c = encoded["input_ids"]
        box = completion.rindex("{") + 1, completion.rindex("}")
        w = [self.answer_weight if box[0] <= a and b <= box[1] else 1.0 for a, b in encoded["offset_mapping"]]
        # A document ends in two pad tokens: the pad embedding is read and predicted, hence trained.
        end = [self.tokenizer.pad_token_id] * 2
        return p + c + end, [0.0] * len(p) + w + [1.0, 1.0]

    def batch(self, tokens: int, progress: float) -> tuple[torch.Tensor, torch.Tensor]:
        """Ids, int64, and weights, float32, both (documents, longest document), at most `tokens` in all.

        One document a row: with another one before it in the row, the same names would hold other stones, and nothing
        could be learnt by looking a name up."""
        if not self.batches:
            drawn: list[tuple[list[int], list[float]]] = []
            while sum(len(ids) for ids, _ in drawn) < 8 * tokens:
                drawn.append(self.document(progress))
            drawn.sort(key=lambda document: len(document[0]))
            rows: list[tuple[list[int], list[float]]] = []
            for document in [*drawn, None]:
                if rows and (document is None or len(document[0]) * (len(rows) + 1) > tokens):
                    self.batches.append(rows)
                    rows = []
                if document is not None:
                    rows.append(document)
            self.rng.shuffle(self.batches)
        rows = self.batches.pop()
        longest = max(len(ids) for ids, _ in rows)
        pad = self.tokenizer.pad_token_id
        return (
            torch.tensor([ids + [pad] * (longest - len(ids)) for ids, _ in rows]),
            torch.tensor([weights + [0.0] * (longest - len(weights)) for _, weights in rows]),
        )


@torch.no_grad()
def generate(model, tokenizer, questions: list[str], max_new_tokens: int = 900, batch_size: int = 50) -> list[str]:
    """
    Greedy outputs.

    Args:
        model (`Qwen2ForCausalLM`):
            The model.
        tokenizer (`PreTrainedTokenizerFast`):
            The tokenizer.
        questions (`list[str]`):
            Questions without the instruction.
        max_new_tokens (`int`, defaults to `900`):
            Cut-off in tokens.
        batch_size (`int`, defaults to `50`):
            Questions a batch.

    Returns:
        `list[str]`: outputs without the end-of-turn token; one that was cut off has no `</think>` or no box.
    """
    model.eval()
    config = GenerationConfig(
        max_new_tokens=max_new_tokens,
        do_sample=False,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    outputs = []
    for start in range(0, len(questions), batch_size):
        prompts = [prompt_text(tokenizer, q) for q in questions[start : start + batch_size]]
        batch = tokenizer(prompts, return_tensors="pt", padding=True, padding_side="left", add_special_tokens=False)
        ids = model.generate(batch["input_ids"], attention_mask=batch["attention_mask"], generation_config=config)
        outputs += tokenizer.batch_decode(ids[:, batch["input_ids"].shape[1] :], skip_special_tokens=True)
    model.train()
    return outputs


def score(outputs: list[str], tokenizer, answers: list[str]) -> dict[str, float]:
    """
    What the outputs are worth.

    Args:
        outputs (`list[str]`):
            Model outputs.
        tokenizer (`PreTrainedTokenizerFast`):
            Counts tokens.
        answers (`list[str]`):
            Right answers.

    Returns:
        `dict[str, float]`: `accuracy`, `cut_off` (share without an answer), `output_tokens` and `segments` (means),
        and the share of every role among the segments as `role_NAME`.
    """
    parsed = [world.parse_solution(o) for o in outputs]
    segments = [world.split_segments(p[0]) for p in parsed]
    roles = [world.role_of(s) or "unknown" for one in segments for s in one]
    n = len(outputs)
    result = {
        "accuracy": sum(p[1] == a for p, a in zip(parsed, answers, strict=True)) / n,
        "cut_off": sum(p[1] is None for p in parsed) / n,
        "output_tokens": sum(len(tokenizer(o, add_special_tokens=False)["input_ids"]) for o in outputs) / n,
        "segments": sum(map(len, segments)) / n,
    }
    return result | {f"role_{r}": roles.count(r) / len(roles) for r in sorted(set(roles))}


def last_asked(question: str) -> str:
    """Name of the last register a question asks for."""
    return question.removesuffix(".").split()[-1]


@torch.no_grad()
def probe(model, tokenizer, rows: list[dict]) -> dict[str, float]:
    """
    Teacher-forced accuracy (share of argmax hits) at the tokens that need more than grammar.

    Args:
        model (`Qwen2ForCausalLM`):
            The model.
        tokenizer (`PreTrainedTokenizerFast`):
            The tokenizer.
        rows (`list[dict]`):
            Rows of the world.

    Returns:
        `dict[str, float]`: `lookup` (after `makes`: the table), `recall` (contents in the box: earlier results).
    """
    model.eval()
    makes = tokenizer.encode(" makes", add_special_tokens=False)[0]
    hits: dict[str, list[bool]] = {"lookup": [], "recall": []}
    for row in rows:
        text = prompt_text(tokenizer, row["question"]) + row["solution"]
        encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        ids = torch.tensor(encoded["input_ids"])
        guess = model(ids[None]).logits[0].argmax(-1)
        boxed = text.rindex("text{")
        for t in range(len(ids) - 1):
            start = encoded["offset_mapping"][t + 1][0]
            recalled = start > boxed and text[start] == "="
            kind = "lookup" if ids[t] == makes else "recall" if recalled else None
            if kind:
                hits[kind].append(bool(guess[t] == ids[t + 1]))
    model.train()
    return {k: sum(v) / max(1, len(v)) for k, v in hits.items()}


@torch.no_grad()
def answer_logprob(model, tokenizer, question: str, reasoning: str, answer: str, gap: str = "\n") -> float:
    """
    Log-probability of the answer after prompt, reasoning and `</think> So, the final answer is \\boxed{`, in nats.

    Args:
        model (`Qwen2ForCausalLM`):
            The model.
        tokenizer (`PreTrainedTokenizerFast`):
            The tokenizer.
        question (`str`):
            Question without the instruction.
        reasoning (`str`):
            Reasoning without the think tags.
        answer (`str`):
            What stands in the box.
        gap (`str`, defaults to one newline):
            What stands between reasoning and suffix.

    Returns:
        `float`: sum over the answer's tokens.
    """
    text = prompt_text(tokenizer, question) + f"<think>\n{reasoning}{gap}{world.ANSWER_SUFFIX}"
    encoded = tokenizer(text + answer + "}", add_special_tokens=False, return_offsets_mapping=True)
    ids = torch.tensor(encoded["input_ids"])
    where = [
        t for t, (a, b) in enumerate(encoded["offset_mapping"]) if a >= len(text) and b <= len(text) + len(answer)
    ]
    logp = model(ids[None]).logits[0].log_softmax(-1)
    return float(sum(logp[t - 1, ids[t]] for t in where))


def decisive_step(model, tokenizer, rows: list[dict]) -> dict[str, float]:
    """
    Does the model read its answer out of the reasoning?

    Args:
        model (`Qwen2ForCausalLM`):
            The model.
        tokenizer (`PreTrainedTokenizerFast`):
            The tokenizer.
        rows (`list[dict]`):
            Rows of the world.

    Returns:
        `dict[str, float]`: mean log-probability of the answer (nats) with the whole reasoning (`whole`, also as
        `whole_median`), without the segment that works out the last register asked for (`without_last_step`; copies of
        its result stay), without every segment that says what that register is (`without_last_value`), without all
        redundancy (`useful_only`) and without one redundant segment at random (`without_redundant`).
    """
    model.eval()
    sums: dict[str, list[float]] = {}
    for row in rows:
        reasoning, _ = world.parse_solution(row["solution"])
        segments = world.split_segments(reasoning)
        useful = [r in world.USEFUL_ROLES for r in row["roles"]]
        last = max(i for i, r in enumerate(row["roles"]) if r in world.DIRECT_ROLES)
        name = last_asked(row["question"])
        rest = [i for i, u in enumerate(useful) if not u and i and f"{name}=" not in segments[i]]
        drop = random.Random(row["id"]).choice(rest) if rest else -1
        kept = {
            "whole": segments,
            "without_last_step": [s for i, s in enumerate(segments) if i != last],
            "without_last_value": [s for s in segments if f"{name}=" not in s],
            "useful_only": [s for i, s in enumerate(segments) if useful[i] or i == 0],
            "without_redundant": [s for i, s in enumerate(segments) if i != drop],
        }
        for key, parts in kept.items():
            value = answer_logprob(model, tokenizer, row["question"], "".join(parts), row["answer"])
            sums.setdefault(key, []).append(value)
    model.train()
    result = {key: sum(v) / len(v) for key, v in sums.items()}
    return result | {"whole_median": sorted(sums["whole"])[len(rows) // 2]}


def statistics(tokenizer, rows: list[dict]) -> dict:
    """
    Counts of a set of rows.

    Args:
        tokenizer (`PreTrainedTokenizerFast`):
            The tokenizer.
        rows (`list[dict]`):
            Rows of the world.

    Returns:
        `dict`: `tokens` and `segments` of a trace (mean, smallest, largest), `inside_a_token` (share of segment starts
        that fall inside a token), and per role its `share` of the segments and the tokens of a segment (mean,
        smallest, largest).
    """
    tokens, counts, inside = [], [], []
    roles: dict[str, list[int]] = {}
    for row in rows:
        reasoning, _ = world.parse_solution(row["solution"])
        offsets = tokenizer(reasoning, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
        starts = [a for a, _ in offsets]
        tokens.append(len(starts))
        counts.append(len(row["roles"]))
        position = 0
        for role, text in zip(row["roles"], world.split_segments(reasoning), strict=True):
            inside += [position not in starts] if position else []
            n = sum(position <= a < position + len(text) for a in starts)
            roles.setdefault(role, []).append(n)
            position += len(text)

    def spread(values: list[int]) -> dict[str, float]:
        return {"mean": round(sum(values) / len(values), 1), "min": min(values), "max": max(values)}

    total = sum(map(len, roles.values()))
    return {
        "rows": len(rows),
        "tokens": spread(tokens),
        "segments": spread(counts),
        "inside_a_token": round(sum(inside) / max(1, len(inside)), 3),
        "roles": {
            r: {"share": round(len(roles[r]) / total, 3), **spread(roles[r])} for r in world.ROLES if r in roles
        },
    }


def save(model, tokenizer, folder: Path) -> None:
    """Writes model, tokenizer and generation config to `folder`; here the pad id enters the configuration."""
    model.config.pad_token_id = tokenizer.pad_token_id
    model.generation_config = GenerationConfig(
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id, max_new_tokens=1200
    )
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def write_jsonl(path: Path, rows: list[dict]) -> None:
    """Writes one JSON object a line."""
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


def rate(step: int, args: argparse.Namespace) -> float:
    """Factor of the learning rates: linear warm-up, then a cosine to a twentieth."""
    return min(1.0, (step + 1) / args.warmup) * (0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * step / args.steps)))


def train(args: argparse.Namespace) -> None:
    """Trains, evaluates and writes everything below `args.output_dir`."""
    torch.set_num_threads(1)
    out = Path(args.output_dir)
    out.mkdir(parents=True, exist_ok=True)
    tokenizer = build_tokenizer()
    tokenizer.save_pretrained(out / "checkpoint")
    # What users load is what is trained with, down to the saved files.
    tokenizer = AutoTokenizer.from_pretrained(out / "checkpoint")
    model = build_model(tokenizer, args.seed)
    parameters = sum(p.numel() for p in model.parameters())

    traces = [row for name in SETTINGS for row in world.make_rows(name, args.n_traces, split="traces")]
    problems = list(world.make_rows("repetition", args.n_problems, split="test"))
    problems = [{"id": f"test-{i}", "question": r["question"], "answer": r["answer"]} for i, r in enumerate(problems)]
    write_jsonl(out / "traces.jsonl", traces)
    write_jsonl(out / "problems.jsonl", problems)
    validation = [row for name in SETTINGS for row in world.make_rows(name, args.n_validation // 2, "validation")]
    counts = {name: statistics(tokenizer, list(world.make_rows(name, 200, "validation"))) for name in SETTINGS}
    print(f"{parameters:,} parameters, vocabulary {len(tokenizer)}")
    for name, one in counts.items():
        print(name, json.dumps(one), flush=True)

    # Muon on the matrices: several times fewer steps until contents are found in the context than with AdamW alone.
    matrices = [p for n, p in model.named_parameters() if p.ndim == 2 and "embed" not in n]
    others = [p for n, p in model.named_parameters() if p.ndim < 2 or "embed" in n]
    optimizers = [
        torch.optim.Muon(matrices, lr=args.muon_lr, weight_decay=args.weight_decay, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(others, lr=args.learning_rate, betas=(0.9, 0.98), weight_decay=0.0),
    ]
    schedulers = [torch.optim.lr_scheduler.LambdaLR(o, lambda s: rate(s, args)) for o in optimizers]

    documents = Documents(tokenizer, args.seed, args.careless, args.suffix_share, args.answer_weight)
    curve: list[dict] = []
    losses: list[float] = []
    started, tokens_seen, evaluating = time.time(), 0, 0.0
    for step in range(args.steps):
        ids, weights = documents.batch(args.batch_tokens, step / args.steps)
        # Half again as fast on the CPUs at hand; what the checkpoint computes in is float32
        with torch.autocast("cpu", torch.bfloat16):
            logits = model(ids).logits.float()
        weights = weights[:, 1:].flatten()
        nll = torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten(), reduction="none")
        loss = (nll * weights).sum() / weights.sum()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer, scheduler in zip(optimizers, schedulers, strict=True):
            optimizer.step()
            scheduler.step()
            optimizer.zero_grad(set_to_none=True)
        losses.append(loss.item())
        tokens_seen += ids.numel()
        done = step + 1
        if done % args.eval_every and done != args.steps:
            continue
        paused = time.time()
        point = {"step": done, "tokens": tokens_seen, "loss": round(sum(losses) / len(losses), 4)}
        losses.clear()
        point |= {
            k: round(v, 4) for k, v in probe(model, tokenizer, validation[:: max(1, len(validation) // 24)]).items()
        }
        point["minutes"] = round((paused - started - evaluating) / 60, 2)
        if done >= args.generate_from * args.steps or done == args.steps:
            outputs = generate(model, tokenizer, [r["question"] for r in validation], args.max_new_tokens)
            point |= {k: round(v, 4) for k, v in score(outputs, tokenizer, [r["answer"] for r in validation]).items()}
        curve.append(point)
        print(json.dumps(point), flush=True)
        evaluating += time.time() - paused
        save(model, tokenizer, out / "checkpoint")
        if args.stop_at is not None and point.get("accuracy", 0.0) >= args.stop_at:
            print(f"validation accuracy {point['accuracy']} reached --stop_at {args.stop_at}", flush=True)
            break

    minutes = (time.time() - started - evaluating) / 60
    model = Qwen2ForCausalLM.from_pretrained(out / "checkpoint")
    outputs = generate(model, tokenizer, [r["question"] for r in problems], args.max_new_tokens)
    final = score(outputs, tokenizer, [r["answer"] for r in problems])
    final = {k: round(v, 4) for k, v in final.items()} | {"problems": len(problems)}
    reading = {
        name: {
            k: round(v, 3)
            for k, v in decisive_step(model, tokenizer, list(world.make_rows(name, 24, "traces"))).items()
        }
        for name in SETTINGS
    }
    pad = model.get_input_embeddings().weight.detach().norm(dim=-1)
    summary = {
        "parameters": parameters,
        "vocabulary": len(tokenizer),
        "checkpoint_bytes": (out / "checkpoint" / "model.safetensors").stat().st_size,
        "training_minutes": round(minutes, 1),
        "evaluation_minutes": round(evaluating / 60, 1),
        "training_tokens": tokens_seen,
        "documents": documents.count,
        "test": final,
        "answer_logprob": reading,
        "pad_embedding_norm": round(float(pad[tokenizer.pad_token_id]), 3),
        "mean_embedding_norm": round(float(pad.mean()), 3),
        "world": counts,
        "arguments": {k: v for k, v in vars(args).items() if k != "output_dir"},
    }
    text = json.dumps({"summary": summary, "curve": curve}, indent=1)
    (out / "learning_curve.json").write_text(text + "\n", encoding="utf-8")
    print(json.dumps({k: v for k, v in summary.items() if k not in ("world", "arguments")}, indent=1))
    print(
        f"base accuracy {final['accuracy']:.3f} (greedy, {len(problems)} problems), {minutes:.1f} minutes of training"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description="Train the tiny world's base model from scratch on one core.")
    parser.add_argument("--output_dir", default=str(HERE), help="where checkpoint/ and the files beside it go")
    parser.add_argument(
        "--quick", action="store_true", help="a smoke run of about a minute; the model learns nothing much"
    )
    parser.add_argument("--steps", type=int, default=2800)
    parser.add_argument("--batch_tokens", type=int, default=4096, help="tokens a step")
    parser.add_argument("--learning_rate", type=float, default=3e-3, help="AdamW, for embeddings, biases and norms")
    parser.add_argument("--muon_lr", type=float, default=6e-3, help="Muon, for all other matrices")
    parser.add_argument("--weight_decay", type=float, default=0.01)
    parser.add_argument("--warmup", type=int, default=60, help="steps")
    parser.add_argument(
        "--careless", type=float, default=0.2, help="share of wrong guesses never corrected in training text"
    )
    parser.add_argument("--suffix_share", type=float, default=0.3, help="share of documents in the attributed form")
    parser.add_argument("--answer_weight", type=float, default=8.0, help="weight of the loss on tokens in the box")
    parser.add_argument("--eval_every", type=int, default=200, help="steps")
    parser.add_argument(
        "--generate_from", type=float, default=0.9, help="share of the steps after which accuracy is measured"
    )
    parser.add_argument("--stop_at", type=float, help="stop once validation accuracy reaches this; off by default")
    parser.add_argument("--max_new_tokens", type=int, default=1100)
    parser.add_argument("--n_validation", type=int, default=24)
    parser.add_argument("--n_traces", type=int, default=24, help="traces a setting in traces.jsonl")
    parser.add_argument("--n_problems", type=int, default=100, help="problems in problems.jsonl")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    if args.quick:
        if Path(args.output_dir).resolve() == HERE:
            parser.error("--quick would overwrite the trained checkpoint; pass another --output_dir")
        args.steps, args.eval_every, args.n_validation, args.n_problems = 60, 30, 8, 8
        args.generate_from, args.max_new_tokens = 1.0, 64
    train(args)


if __name__ == "__main__":
    main()
