"""Train the encoder of examples/lidc on scikit-learn's digits, and write it as ONNX.

    pip install --no-deps --target FOLDER scikit-learn
    python -m tests.digits_encoder FOLDER/sklearn/datasets/data/digits.csv.gz OUT

Three convolutions are trained to tell ten written digits apart (1,797 images of 8 × 8 pixels, made
24 × 24), and then without their last layer become 64 numbers of an image. OUT is a folder; the file
is named by its digest. Another machine rounds otherwise, and so gets a file of another digest.
"""

from __future__ import annotations

import gzip
import logging
import sys
import warnings
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from flo.clients.data_process.encoding import encoder_path
from flo.documents import canonical

SIDE, FEATURES = 24, 64


def encoder() -> nn.Sequential:
    """The encoder before it is trained."""
    return nn.Sequential(
        *(nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.AvgPool2d(2)),
        *(nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.AvgPool2d(2)),
        *(nn.Conv2d(32, FEATURES // 4, 3, padding=1), nn.Tanh(), nn.AvgPool2d(3), nn.Flatten()),
    )


def trained(images: torch.Tensor, digits: torch.Tensor) -> tuple[nn.Sequential, float]:
    """Train on 1,400 images; return the encoder, and the share of the others told right."""
    made, last = encoder(), nn.Linear(FEATURES, 10)
    optimizer = torch.optim.Adam([*made.parameters(), *last.parameters()], 2e-3)
    order = torch.randperm(len(images))
    seen, unseen = order[:1400], order[1400:]
    for _ in range(25):
        for batch in torch.split(seen[torch.randperm(len(seen))], 64):
            optimizer.zero_grad()
            loss = functional.cross_entropy(last(made(images[batch])), digits[batch])
            torch.autograd.backward(loss)
            optimizer.step()
    with torch.inference_mode():
        right = last(made(images[unseen])).argmax(1) == digits[unseen]
    return made.eval(), float(right.float().mean())


def main(source: str, out: str) -> None:
    with gzip.open(source) as file:
        table = np.loadtxt(file, delimiter=",")
    torch.manual_seed(0)
    torch.set_num_threads(1)
    images = torch.from_numpy(table[:, :64].reshape(-1, 1, 8, 8) / 8 - 1).float()
    images = functional.interpolate(images, size=SIDE, mode="bilinear")
    made, right = trained(images, torch.from_numpy(table[:, 64]).long())
    with warnings.catch_warnings():  # torch's exporter warns about its own deprecations
        warnings.simplefilter("ignore")
        logging.getLogger("torch.onnx").setLevel(logging.ERROR)
        program = torch.onnx.export(
            made,
            (images[:1],),
            input_names=["image"],
            output_names=["features"],
            dynamo=True,
            external_data=False,
            verbose=False,
        )
    assert program is not None
    model = program.model_proto
    for node in model.graph.node:  # where the source lay on this machine
        del node.metadata_props[:]
    data = model.SerializeToString()
    digest = canonical.digest(data)
    Path(out).mkdir(parents=True, exist_ok=True)
    path = encoder_path(Path(out), digest)
    path.write_bytes(data)
    told = f"{path}: {right:.3f} of {len(images) - 1400} other digits told right"
    sys.stdout.write(f"{told}\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
