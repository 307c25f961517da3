"""`trl-segment tune`: sweep the thresholds over stored attributions, or compare stores."""

import json
import sys
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path

import numpy as np
from tqdm.auto import tqdm
from trl import ModelConfig, ScriptArguments, TrlParser, get_quantization_config

from ..attribution.hub import open_store
from ..selection import CONSISTENCY_SCALES, SelectionConfig
from ..traces import TraceConfig, build_trace, row_name
from .data import load_train_split


@dataclass
class TuneArguments(SelectionConfig):
    """
    Arguments of `trl-segment tune` besides TRL's. Extends [`~trl_segment.SelectionConfig`], whose `tau` and `beta` are
    the pair that the best one is compared with.

    Parameters:
        attributions (`list[str]`, *optional*, defaults to `["attributions"]`):
            Stores to sweep over. Several compare what changes scores: baselines, rules, segmenters, models.
        compare (`str`, *optional*):
            A store to compare each of them with instead: rank correlations and overlap of the selections.
        taus (`list[float]`, *optional*):
            Values of `tau`.
        betas (`list[float]`, *optional*):
            Values of `beta`.
        scales (`list[str]`, *optional*):
            What `beta` is compared with, see `consistency_scale`. All of them by default.
        confidence (`str`, *optional*, defaults to `"log_probability"`):
            Scale of the model's confidence in the answer: `"log_probability"` (nats), or `"probability"` (what the
            paper estimates by sampling), on which a step counts little while the answer is still out of reach.
        max_traces (`int`, *optional*, defaults to `500`):
            At most so many traces, spread evenly over the dataset.
        dry_run (`bool`, *optional*, defaults to `False`):
            Whether to print what would be done, and stop. No weight is loaded.
        output_dir (`str`, *optional*, defaults to `"tune"`):
            Folder for the gains of segments (computed once), `tune.json` and `tune.png`.
        dataset_text_field (`str`, *optional*, defaults to `"text"`):
            Column of the language-modeling format.
        chat_template_path (`str`, *optional*):
            Jinja file to use in place of the tokenizer's chat template.
        trust_remote_code (`bool`, *optional*, defaults to `False`):
            Whether code from the Hub may run.
    """

    attributions: list[str] = field(
        default_factory=lambda: ["attributions"], metadata={"help": "Stores to sweep over, one or several."}
    )
    compare: str | None = field(
        default=None, metadata={"help": "Compare the stores with this one instead: correlations, overlap."}
    )
    taus: list[float] | None = field(default=None, metadata={"help": "Values of tau. Default: 0.3 to 1."})
    betas: list[float] | None = field(default=None, metadata={"help": "Values of beta. Default: 0.2 to 1."})
    scales: list[str] = field(
        default_factory=lambda: list(CONSISTENCY_SCALES),
        metadata={"help": "What beta is compared with: absolute, chance, rank (see consistency_scale)."},
    )
    confidence: str = field(
        default="log_probability",
        metadata={
            "help": "Scale of the model's confidence in the answer.",
            "choices": ["log_probability", "probability"],
        },
    )
    max_traces: int = field(default=500, metadata={"help": "At most so many traces, spread over the dataset."})
    dry_run: bool = field(default=False, metadata={"help": "Print what would be done, and stop."})
    output_dir: str = field(default="tune", metadata={"help": "Folder for gains, table and heat map."})
    dataset_text_field: str = field(default="text", metadata={"help": "Column of the language-modeling format."})
    chat_template_path: str | None = field(
        default=None, metadata={"help": "Jinja file to use in place of the tokenizer's chat template."}
    )
    trust_remote_code: bool = field(default=False, metadata={"help": "Whether code from the Hub may run."})


def main(argv: list[str] | None = None) -> None:
    """
    Run the command.

    Args:
        argv (`list[str]`, *optional*):
            Arguments. Defaults to those of the process.
    """
    parser = TrlParser((ScriptArguments, TuneArguments, ModelConfig), prog="trl-segment tune")
    script_args, args, model_args = parser.parse_args_and_config(argv)
    unknown = sorted({*args.scales} - {*CONSISTENCY_SCALES})
    if unknown:
        parser.error(f"--scales {unknown[0]} is not one of {', '.join(CONSISTENCY_SCALES)}")
    selection = SelectionConfig(**{f.name: getattr(args, f.name) for f in fields(SelectionConfig)})
    stores = {name: open_store(name) for name in args.attributions}
    for name, store in stores.items():
        if not any(row.problem is None for row in store.values()):
            sys.exit(f"The store at {name!r} holds no attributed trace, so there is nothing to tune with.")
    if args.compare is not None:
        _compare(stores, args.compare, selection)
        return
    if not script_args.dataset_name:
        parser.error("--dataset_name is required: the traces that the store was made of")

    from ..evaluation.tuning import BETAS, TAUS, sweep_thresholds

    dataset = load_train_split(script_args)
    wanted = np.unique(np.linspace(0, len(dataset) - 1, min(args.max_traces, len(dataset))).round().astype(int))
    rows = [(row_name(dataset[int(i)], int(i)), dataset[int(i)]) for i in wanted]
    if args.dry_run:
        segments = [len(row.num_tokens) for store in stores.values() for row in store.values() if row.problem is None]
        print(
            f"{len(stores)} stores, {len(rows):,} of {len(dataset):,} traces: one forward pass a trace and store, and "
            f"a short one for each of about {np.mean(segments):.0f} segments, unless {args.output_dir}/gains.jsonl "
            "has them. Nothing was loaded or written."
        )
        return
    Path(args.output_dir).mkdir(parents=True, exist_ok=True)
    gains = _Gains(args, model_args)
    taus, betas = sorted(args.taus or TAUS), sorted(args.betas or BETAS)
    sweeps, report = {}, []
    for name, store in stores.items():
        scored = _scored_traces(name, store, rows, gains, args)
        for scale in args.scales:
            config = replace(selection, consistency_scale=scale)
            sweep = sweep_thresholds(scored, config, taus, betas)
            title = f"{Path(name).name}, {scale}" if len(stores) > 1 else scale
            sweeps[title] = sweep
            _print_sweep(title, sweep, args, len(scored))
            report.append({"store": name, "scale": scale, "traces": len(scored), **_plain(sweep)})
    _print_ranking(sweeps)
    (Path(args.output_dir) / "tune.json").write_text(json.dumps(report, indent=1), encoding="utf-8")
    try:
        from ..report.heat_map import draw_sweeps

        draw_sweeps(sweeps, Path(args.output_dir) / "tune.png", (args.tau, args.beta), _UNITS[args.confidence])
    except ImportError:
        sys.exit("The heat map is drawn with matplotlib. Install it: pip install matplotlib")
    print(f"Table and heat map: {args.output_dir}/tune.json, {args.output_dir}/tune.png")


_UNITS = {"log_probability": "nats", "probability": "probability"}


class _Gains:
    """Gains of segments, from `gains.jsonl` in the output folder where they are known."""

    def __init__(self, args, model_args):
        self.args, self.model_args = args, model_args
        self.engine = self.file = None
        self.path = Path(args.output_dir) / "gains.jsonl"

    def _load(self):
        from ..attribution.loading import load_attribution_model
        from ..attribution.runner import weights_fingerprint
        from ..evaluation.outputs import OutputFile

        if not self.model_args.model_name_or_path:
            sys.exit(
                "--model_name_or_path is required: the model whose confidence in the answer counts, best the one that "
                "will be trained."
            )
        model, tokenizer = load_attribution_model(
            self.model_args.model_name_or_path,
            revision=self.model_args.model_revision,
            dtype=self.model_args.dtype,
            attn_implementation=self.model_args.attn_implementation,
            quantization_config=get_quantization_config(self.model_args),
            chat_template_path=self.args.chat_template_path,
            trust_remote_code=self.args.trust_remote_code,
        )
        self.engine = model, tokenizer
        settings = {"weights": weights_fingerprint(model), "dtype": str(model.dtype)}
        self.file = OutputFile(self.path, settings, key=("key", "answer_template", "prompt"))

    def of(self, trace, answer_template):
        """Gain of each segment in nats, shape (segments,), or why there is none."""
        from ..evaluation.confidence import answer_log_probs
        from ..traces import attributed_sequence
        from ..traces.alignment import render_prompt

        if self.engine is None:
            self._load()
        model, tokenizer = self.engine
        known = (trace.key, answer_template, render_prompt(trace, tokenizer)[-200:])
        if known not in self.file.records:
            sequence = attributed_sequence(trace, tokenizer, answer_template)
            if sequence.problem is not None:
                return sequence.problem
            values = answer_log_probs(model, sequence.input_ids, sequence.target, sequence.segments)
            record = dict(zip(("key", "answer_template", "prompt"), known, strict=True))
            self.file.append({**record, "log_probs": values.tolist()})
        values = np.array(self.file.records[known]["log_probs"])
        gains = np.diff(values if self.args.confidence == "log_probability" else np.exp(values))
        return gains if np.isfinite(gains).all() else "the log-probabilities of the answer are not finite"


def _scored_traces(name, store, rows, gains, args):
    from ..evaluation.tuning import ScoredTrace

    config = TraceConfig(**{f.name: store.settings[f.name] for f in fields(TraceConfig)})
    scored, left_out = [], {}
    for row_label, row in tqdm(rows, desc=f"Gains for {Path(name).name}", unit=" traces"):
        trace = build_trace(row, config, text_column=args.dataset_text_field)
        stored = store.get(trace.key)
        problem = "not in the store" if stored is None else stored.problem
        if problem is None:
            values = gains.of(trace, store.settings["answer_template"])
            if isinstance(values, str):
                problem = values
        if problem is not None:
            left_out.setdefault(problem, []).append(row_label)
            continue
        scored.append(
            ScoredTrace(np.array(stored.num_tokens), np.array(stored.sum_abs), np.array(stored.sum_signed), values)
        )
    for problem, names in left_out.items():
        print(f"{name}: {len(names)} x {problem}: {', '.join(names[:5])}{', ...' if len(names) > 5 else ''}")
    if not scored:
        sys.exit(f"No trace of the dataset has scores in {name!r}. Was the store made of another dataset?")
    return scored


def _compare(stores, other_name, selection):
    from ..evaluation.tuning import compare_stores

    other = open_store(other_name)
    for name, store in stores.items():
        agreement = compare_stores(store, other, selection)
        different = [
            f"{key} {store.settings.get(key)!r} / {other.settings.get(key)!r}"
            for key in sorted({*store.settings, *other.settings})
            if store.settings.get(key) != other.settings.get(key)
        ]
        print(f"\n{name} and {other_name}: {agreement.traces} traces in both")
        print(f"  differ in: {'; '.join(different) or 'no setting'}")
        print(f"  rank correlation of strengths    {_estimate(agreement.strength)}")
        print(f"  rank correlation of signed sums  {_estimate(agreement.direction)}")
        print(
            f"  Jaccard index of selections      {_estimate(agreement.selection)}, by chance {agreement.by_chance:.2f}"
        )


def _estimate(estimate):
    return f"{estimate.value:.2f} [{estimate.low:.2f}, {estimate.high:.2f}]"


def _print_sweep(title, sweep, args, traces):
    unit = _UNITS[args.confidence]
    print(f"\n{title}: gap of mean gains, kept minus dropped segments, in {unit} ({traces} traces)")
    print("tau \\ beta " + "".join(f"{beta:>9g}" for beta in sweep.betas))
    for i, tau in enumerate(sweep.taus):
        cells = [
            "–" if np.isnan(value) else f"{value:.3f}" if judged else f"({value:.3f})"
            for value, judged in zip(sweep.gap[i], sweep.eligible[i], strict=True)
        ]
        print(f"{tau:>10g} " + "".join(f"{cell:>9}" for cell in cells))
    if not sweep.eligible.all():
        print("In brackets: keeps or drops fewer than a twentieth of the segments, too few to judge.")
    if sweep.best is None:
        print("No pair can be judged: too few segments beside the always-trained ones.")
        return
    i, j = sweep.best
    print(
        f"Best: tau {sweep.taus[i]:g}, beta {sweep.betas[j]:g}, gap {sweep.gap[i, j]:.3f} "
        f"[{sweep.low[i, j]:.3f}, {sweep.high[i, j]:.3f}] (95 % bootstrap over traces); chosen and judged on "
        f"different traces {sweep.best_held_out.value:.3f} [{sweep.best_held_out.low:.3f}, "
        f"{sweep.best_held_out.high:.3f}]."
    )
    print(
        f"It keeps {100 * sweep.kept_segments[i, j]:.0f} % of the segments, {100 * sweep.kept_tokens[i, j]:.0f} % of "
        f"the tokens; it is the best in {100 * sweep.chosen[i, j]:.0f} % of the resamples."
    )
    print(
        f"Flatness: {int(sweep.equal.sum())} of {int(sweep.eligible.sum())} pairs cannot be told from it. One step "
        f"away the selection overlaps {100 * sweep.overlap[i, j]:.0f} % (Jaccard; mean over all pairs "
        f"{100 * sweep.overlap.mean():.0f} %)."
    )
    if args.tau in sweep.taus and args.beta in sweep.betas:
        i, j = sweep.taus.index(args.tau), sweep.betas.index(args.beta)
        if (i, j) != sweep.best and sweep.eligible[i, j]:
            told = "cannot be told from the best" if sweep.equal[i, j] else "is worse than the best"
            print(
                f"In use: tau {args.tau:g}, beta {args.beta:g}, gap {sweep.gap[i, j]:.3f} [{sweep.low[i, j]:.3f}, "
                f"{sweep.high[i, j]:.3f}], {100 * sweep.kept_segments[i, j]:.0f} % of the segments; it {told}."
            )


def _print_ranking(sweeps):
    if len(sweeps) < 2:
        return
    print("\nBest pair of each, chosen and judged on different traces:")
    best = {title: sweep for title, sweep in sweeps.items() if sweep.best is not None}
    for title, sweep in sorted(best.items(), key=lambda item: -item[1].best_held_out.value):
        i, j = sweep.best
        print(f"  {title}: tau {sweep.taus[i]:g}, beta {sweep.betas[j]:g}, {_estimate(sweep.best_held_out)}")


def _plain(sweep):
    """JSON has no NaN."""

    def plain(value):
        if isinstance(value, dict):
            return {key: plain(v) for key, v in value.items()}
        if isinstance(value, np.ndarray):
            return plain(value.tolist())
        if isinstance(value, (list, tuple)):
            return [plain(v) for v in value]
        return None if isinstance(value, float) and np.isnan(value) else value

    return plain(asdict(sweep))


if __name__ == "__main__":
    main()
