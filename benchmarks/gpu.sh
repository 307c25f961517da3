#!/usr/bin/env bash
# On a machine with a GPU, in a clone with its environment: the tests marked `gpu`, then every benchmark of attribution,
# into one folder. Aims at ten minutes on an H100. The tests ran on an H200; the benchmarks of attribution have not.
#   bash benchmarks/gpu.sh [FOLDER] [MODEL]
set -u
folder=${1:-gpu_output}
model=${2:-HuggingFaceTB/SmolLM2-135M-Instruct}
mkdir -p "$folder"
python=${PYTHON:-.venv/bin/python}
run() {
    local name=$1
    shift
    local began=$SECONDS
    "$@" >"$folder/$name.txt" 2>&1
    printf '%-24s exit %d, %4d s\n' "$name" $? $((SECONDS - began)) | tee -a "$folder/summary.txt"
}
"$python" -c 'import torch; print(torch.cuda.get_device_name())' | tee "$folder/summary.txt" || exit 1
run tests "$python" -m pytest tests/models/test_gpu.py -m gpu -q
run real_model "$python" benchmarks/real_model.py --model "$model" --count 3 --dtypes float32 bfloat16 float16
run speed "$python" benchmarks/speed.py --compile --repeats 2
run cost "$python" benchmarks/cost.py
run decoding "$python" benchmarks/decoding.py --compare --model "$model" --count 256 --max_new_tokens 512 --rounds 1 \
    --attention sdpa --ways "64 at a time" generate_outputs "continuous batching"
cat "$folder"/decoding.txt "$folder"/speed.txt "$folder"/real_model.txt
