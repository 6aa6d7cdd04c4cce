"""Train the digits model that `skipjack demo` runs and write it with its held-out images. Needs torch and scikit-learn.

    python tools/make_digits.py            # writes into src/skipjack/models/digits
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from sklearn.datasets import load_digits
from torch import nn

FOLDER = Path(__file__).resolve().parents[1] / "src/skipjack/models/digits"
SEED, EPOCHS, BATCH, HELD_OUT = 7, 40, 64, 360


def split() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Training images and labels, held-out images and labels: float32 [n, 1, 8, 8] in 0..1 and int64.

    Every class is split alike.
    """
    digits = load_digits()
    images = (digits.images / 16.0).astype(np.float32)[:, None]
    labels = digits.target.astype(np.int64)
    rng = np.random.default_rng(SEED)
    held: list[int] = []
    for digit in range(10):
        held += list(rng.permutation(np.flatnonzero(labels == digit))[: HELD_OUT // 10])
    rng.shuffle(held)
    kept = np.setdiff1d(np.arange(len(labels)), held)
    return images[kept], labels[kept], images[held], labels[held]


def network() -> nn.Sequential:
    """Three 3x3 convolutions, one pool, one linear layer."""
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(16, 32, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(32, 64, 3, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Dropout(0.3),
        nn.Linear(64 * 4 * 4, 10),
    )


def train(images: np.ndarray, labels: np.ndarray) -> nn.Sequential:
    """Fit the network."""
    torch.manual_seed(SEED)
    torch.set_num_threads(1)
    model = network()
    optimiser = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=1e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, EPOCHS)
    x, y = torch.from_numpy(images), torch.from_numpy(labels)
    for _ in range(EPOCHS):
        model.train()
        for rows in torch.randperm(len(x)).split(BATCH):
            loss = nn.functional.cross_entropy(model(x[rows]), y[rows])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
        schedule.step()
    return model.eval()


def export(model: nn.Sequential) -> onnx.ModelProto:
    """The network as ONNX with a free batch size and probabilities as output."""
    weights: list[onnx.TensorProto] = []
    nodes: list[onnx.NodeProto] = []
    value = "image"
    for index, layer in enumerate(model):
        if isinstance(layer, nn.Dropout):
            continue
        names = [f"{index}.{kind}" for kind, _ in layer.named_parameters()]
        for kind, parameter in layer.named_parameters():
            weights.append(numpy_helper.from_array(parameter.detach().numpy(), f"{index}.{kind}"))
        op, attributes = _operator(layer)
        made = f"{op.lower()}_{index}"
        nodes.append(helper.make_node(op, [value, *names], [made], name=made, **attributes))
        value = made
    nodes.append(helper.make_node("Softmax", [value], ["probabilities"], name="softmax", axis=1))
    graph = helper.make_graph(
        nodes,
        "digits",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", 1, 8, 8])],
        [helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["batch", 10])],
        weights,
    )
    opset = helper.make_opsetid("", 17)
    exported = helper.make_model(graph, opset_imports=[opset], ir_version=8, producer_name="make_digits")
    onnx.checker.check_model(exported, full_check=True)
    return exported


def _operator(layer: nn.Module) -> tuple[str, dict[str, object]]:
    if isinstance(layer, nn.Conv2d):
        return "Conv", {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]}
    if isinstance(layer, nn.MaxPool2d):
        return "MaxPool", {"kernel_shape": [2, 2], "strides": [2, 2]}
    if isinstance(layer, nn.Linear):
        return "Gemm", {"transB": 1}
    return {nn.ReLU: "Relu", nn.Flatten: "Flatten"}[type(layer)], {}


def main() -> None:
    """Train, score, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, default=FOLDER)
    folder = parser.parse_args().folder
    images, labels, held_images, held_labels = split()
    model = train(images, labels)
    with torch.no_grad():
        guesses = model(torch.from_numpy(held_images)).argmax(1).numpy()
    folder.mkdir(parents=True, exist_ok=True)
    onnx.save(export(model), folder / "digits.onnx")
    pixels = np.round(held_images[:, 0] * 16).astype(np.uint8)
    np.savez_compressed(folder / "held_out.npz", images=pixels, labels=held_labels.astype(np.uint8))
    (folder / "labels.txt").write_text("\n".join("0123456789") + "\n")
    right = int((guesses == held_labels).sum())
    print(f"trained on {len(labels)}, right on {right} of {len(held_labels)} held-out images")


if __name__ == "__main__":
    main()
