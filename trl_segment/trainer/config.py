"""Configuration of [`SegmentSelectiveSFTTrainer`]."""

from dataclasses import dataclass, field

from trl import SFTConfig

from ..attribution.config import AttributionConfig
from ..selection import SelectionConfig


COMPLETION_RENDERINGS = ("auto", "template", "verbatim")


@dataclass
class SegmentSelectiveSFTConfig(SelectionConfig, AttributionConfig, SFTConfig):
    r"""
    Configuration class for the [`SegmentSelectiveSFTTrainer`].

    Takes every parameter of [`~trl.SFTConfig`], of [`~trl_segment.SelectionConfig`] (`tau`, `beta`, `keep_first`,
    `keep_last`, `transition`, `min_tokens_to_mask`) and of [`~trl_segment.AttributionConfig`] (`segmenter`,
    `segment_pattern`, `answer_column`, `question_template`, `attribution_rule`, `attribution_evaluations`,
    `attribution_path`, `attribution_baseline`, `attribution_max_tokens`, `answer_template`), and:

    Parameters:
        attributions (`str`, *optional*):
            Folder of an attribution store made with `trl-segment attribute`. It must hold every trace of the training
            set. If `None`, attributions are computed when training begins, with the model as it is then (adapter off),
            and stored in `<output_dir>/attributions`; a resumed run reads them from there.
        completion_rendering (`str`, *optional*, defaults to `"auto"`):
            How a conversational example becomes text:

            - `"template"`: by the chat template, as [`~trl.SFTTrainer`] does.
            - `"verbatim"`: the prompt by the chat template with its generation prompt, then the completion as the
              dataset has it and the EOS token. For templates that drop the reasoning, such as the R1 distills'.
            - `"auto"`: `"verbatim"` for `question`/`solution` rows, as in the paper, `"template"` for all others.
    """

    attributions: str | None = field(
        default=None,
        metadata={
            "help": "Folder of an attribution store made with `trl-segment attribute`. If unset, attributions are "
            "computed when training begins and stored in <output_dir>/attributions."
        },
    )
    completion_rendering: str = field(
        default="auto",
        metadata={
            "help": "How a conversational example becomes text: by the chat 'template', or 'verbatim' (prompt with "
            "its generation prompt, completion as it is, EOS), for templates that drop the reasoning. 'auto': "
            "verbatim for question/solution rows, template for all others.",
            "choices": list(COMPLETION_RENDERINGS),
        },
    )

    def __post_init__(self):
        if self.completion_rendering not in COMPLETION_RENDERINGS:
            raise ValueError(
                f"Unknown completion rendering {self.completion_rendering!r}. Pass one of "
                f"{', '.join(map(repr, COMPLETION_RENDERINGS))}."
            )
        super().__post_init__()
