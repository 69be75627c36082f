"""Flower with Opacus, as their examples do it: FedAvg, a client takes one private step."""

import json
import time
from pathlib import Path

import numpy as np
import torch
from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg
from opacus import PrivacyEngine
from torch.utils.data import DataLoader, TensorDataset

client = ClientApp()
server = ServerApp()


@client.train()
def train(message: Message, context: Context) -> Message:
    """Take one DP-SGD step by Opacus over the client's whole table (``data``)."""
    site = Path(str(context.run_config["data"])) / f"{context.node_config['site']}.npz"
    with np.load(site) as table:
        inputs = torch.from_numpy(table["inputs"]).float()
        labels = torch.from_numpy(table["labels"]).float()
    model = torch.nn.Linear(inputs.shape[1], 1)
    model.load_state_dict(message.content.array_records["arrays"].to_torch_state_dict())
    private, optimizer, loader = PrivacyEngine().make_private(
        module=model,
        optimizer=torch.optim.SGD(model.parameters(), lr=0.5),
        data_loader=DataLoader(TensorDataset(inputs, labels), batch_size=len(inputs)),
        noise_multiplier=20.0,
        max_grad_norm=0.5,
    )
    for batch, label in loader:
        optimizer.zero_grad()
        scores = private(batch)[:, 0]
        loss = torch.nn.functional.binary_cross_entropy_with_logits(scores, label)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    arrays = ArrayRecord(private._module.state_dict())
    metrics = MetricRecord({"num-examples": len(inputs)})
    return Message(RecordDict({"arrays": arrays, "metrics": metrics}), reply_to=message)


@server.main()
def main(grid: Grid, context: Context) -> None:
    """Train a logistic regression over ``sites`` clients; write the end time to ``times``."""
    wanted = context.run_config
    sites = int(wanted["sites"])
    strategy = FedAvg(
        fraction_evaluate=0.0,
        min_train_nodes=sites,
        min_evaluate_nodes=0,
        min_available_nodes=sites,
    )
    model = torch.nn.Linear(int(wanted["inputs"]), 1)
    arrays = ArrayRecord(model.state_dict())
    strategy.start(grid, arrays, num_rounds=int(wanted["rounds"]))
    Path(str(wanted["times"])).write_text(json.dumps([time.time()]))
