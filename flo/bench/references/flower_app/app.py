"""Stock Flower: FedAvg over one float32 array; a client adds its own number to it."""

import json
import time
from pathlib import Path
from typing import Any

import numpy as np
from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg

client = ClientApp()
server = ServerApp()


@client.train()
def train(message: Message, context: Context) -> Message:
    """Do almost no work, so that the exchange is what is timed."""
    (model,) = message.content.array_records["arrays"].to_numpy_ndarrays()
    update = ArrayRecord([model + np.float32(context.node_id % 1000)])
    metrics = MetricRecord({"num-examples": 20})
    return Message(RecordDict({"arrays": update, "metrics": metrics}), reply_to=message)


class Timed(FedAvg):
    """FedAvg that records when each round begins and when the last one ends."""

    instants: list[float]

    def configure_train(self, *given: Any, **named: Any) -> Any:
        """Record the beginning of a round."""
        self.instants.append(time.time())
        return super().configure_train(*given, **named)

    def aggregate_train(self, *given: Any, **named: Any) -> Any:
        """Record the end of a round; only the last one is used."""
        found = super().aggregate_train(*given, **named)
        self.ended = time.time()
        return found


@server.main()
def main(grid: Grid, context: Context) -> None:
    """Run rounds over ``sites`` clients and ``floats`` numbers; write the times to ``times``."""
    wanted = context.run_config
    sites = int(wanted["sites"])
    strategy = Timed(
        fraction_evaluate=0.0,
        min_train_nodes=sites,
        min_evaluate_nodes=0,
        min_available_nodes=sites,
    )
    strategy.instants = []
    numbers = np.random.default_rng(1).random(int(wanted["floats"]), dtype=np.float32)
    strategy.start(grid, ArrayRecord([numbers]), num_rounds=int(wanted["rounds"]))
    Path(str(wanted["times"])).write_text(json.dumps([*strategy.instants, strategy.ended]))
