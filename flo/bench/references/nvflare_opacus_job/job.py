"""NVFLARE: FedAvg of one linear layer. Arguments: sites, inputs, rounds, file of times, data."""

import sys
from pathlib import Path

from nvflare.app_opt.pt.recipes.fedavg import FedAvgRecipe
from nvflare.recipe.poc_env import PocEnv

if __name__ == "__main__":
    sites, inputs, rounds = map(int, sys.argv[1:4])
    recipe = FedAvgRecipe(
        name="reference",
        model={"class_path": "torch.nn.Linear", "args": {"in_features": inputs, "out_features": 1}},
        min_clients=sites,
        num_rounds=rounds + 1,  # a round is timed from one to the next
        train_script=str(Path(__file__).parent / "client.py"),
        train_args=" ".join(sys.argv[4:6]),
    )
    recipe.execute(PocEnv(num_clients=sites)).get_result(timeout=900.0)
