"""An MLP, a ResNet-50 in shape and a BERT-like encoder, small and with random weights, as torch exports them.

`python -m tests.torch_models FOLDER` writes mlp.onnx, cnn.onnx and bert.onnx: in a process of its own, since torch's
exporter warns, and takes hundreds of megabytes.
"""

from __future__ import annotations

import sys

from benchmarks.torch_models import encoder, perceptron, resnet


def main(folder: str) -> None:
    """Write the three files; their rows are free."""
    import torch

    torch.set_num_threads(1)
    rows = torch.export.Dim("rows", min=1, max=65_536)
    examples = (
        ("mlp", perceptron(), torch.ones(2, 512)),
        ("cnn", resnet(), torch.ones(2, 3, 224, 224)),
        ("bert", encoder(), torch.ones(2, 128, dtype=torch.int64)),
    )
    for name, model, x in examples:
        torch.onnx.export(
            model.eval(),
            (x,),
            f"{folder}/{name}.onnx",
            input_names=["x"],
            output_names=["y"],
            dynamic_shapes=({0: rows},),
            dynamo=True,
            external_data=False,
            verbose=False,
        )


if __name__ == "__main__":
    main(sys.argv[1])
