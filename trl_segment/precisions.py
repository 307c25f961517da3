"""Names of the precisions that a model computes in."""

# "auto" is that of the weights; "tf32" are float32 weights whose products a GPU makes in TF32
PRECISIONS = ("auto", "bfloat16", "float16", "float32", "tf32")
