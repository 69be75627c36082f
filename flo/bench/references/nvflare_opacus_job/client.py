"""NVFLARE with Opacus, as their examples do it: a client takes one private step a round."""

import json
import sys
import time
from pathlib import Path

import numpy as np
import nvflare.client as flare
import torch
from opacus import PrivacyEngine
from torch.utils.data import DataLoader, TensorDataset

if __name__ == "__main__":
    flare.init()
    site, times = flare.get_site_name(), Path(sys.argv[1])
    with np.load(Path(sys.argv[2]) / f"{site.rpartition('-')[2]}.npz") as table:
        inputs = torch.from_numpy(table["inputs"]).float()
        labels = torch.from_numpy(table["labels"]).float()
    instants: list[float] = []
    while flare.is_running():
        received = flare.receive()
        if received is None:
            break
        if site == "site-1":
            instants.append(time.time())
            times.write_text(json.dumps(instants))
        model = torch.nn.Linear(inputs.shape[1], 1)
        model.load_state_dict({k: torch.as_tensor(v) for k, v in received.params.items()})
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
        params = {k: v.detach().cpu() for k, v in private._module.state_dict().items()}
        sent = flare.FLModel(params=params, meta={"NUM_STEPS_CURRENT_ROUND": 1})
        flare.send(sent)
