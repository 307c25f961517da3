"""Configuration of [`SegmentSelectiveSFTTrainer`]."""

from dataclasses import dataclass

from trl import SFTConfig

from .options import SelectiveTrainingConfig, name_checkpointing


@dataclass
class SegmentSelectiveSFTConfig(SelectiveTrainingConfig, SFTConfig):
    r"""
    Configuration class for the [`SegmentSelectiveSFTTrainer`].

    Takes every parameter of [`~trl.SFTConfig`] and those of the four classes below. `seed`, of both
    [`~trl.SFTConfig`] and [`~trl_segment.SelectionConfig`], is one and the same here.

    - [`~trl_segment.trainer.options.SelectiveTrainingConfig`], what training does with segments: `attributions`,
      `completion_rendering`, `dropped_segments`, `dropped_weight`, `kept_weight`, `eval_selective`,
      `attribution_model`, `attribution_dtype`, `attribution_adapter`, `reattribute_every_epochs`.
    - [`~trl_segment.SelectionConfig`], which segments are kept: `selection`, `tau`, `beta`, `consistency_scale`,
      `min_direction`, `min_strength`, `keep_first`, `keep_last`, `transition`, `min_tokens_to_mask`, `min_gain`,
      `seed`.
    - [`~trl_segment.AttributionConfig`], how traces are scored: `attribution_preset`, `attribution_scorer`,
      `attribution_threshold`, `attribution_rule`, `attribution_evaluations`, `attribution_tolerance`,
      `attribution_stop`, `attribution_noise_samples`, `attribution_path`, `attribution_baseline`,
      `attribution_max_tokens`, `attribution_compile`, `attribution_strict`, `answer_template`,
      `answer_statements`.
    - [`~trl_segment.TraceConfig`], how a row is read: `segmenter`, `segment_pattern`, `answer_column`,
      `question_column`, `solution_column`, `reasoning_column`, `response_column`, `question_template`,
      `reasoning_start`, `reasoning_end`.

    Raises:
        `ValueError`: On values that cannot work, or not together.
    """

    def __post_init__(self):
        if self.dropped_segments == "weight" and (self.loss_type != "nll" or self.label_smoothing_factor > 0):
            raise ValueError(
                f"`dropped_segments='weight'` weighs the negative log-likelihood of each token, but loss_type="
                f"{self.loss_type!r} and label_smoothing_factor={self.label_smoothing_factor} make another loss of "
                "it. Use 'mask', or leave these two at their defaults."
            )
        name_checkpointing(self, SFTConfig)
        super().__post_init__()
