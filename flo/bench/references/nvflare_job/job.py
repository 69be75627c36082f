"""NVFLARE: FedAvg over one float32 array. Arguments: sites, floats, rounds, file of times."""

import sys
from pathlib import Path

import numpy as np
from nvflare.app_common.np.recipes.fedavg import NumpyFedAvgRecipe
from nvflare.recipe.poc_env import PocEnv

if __name__ == "__main__":
    sites, floats, rounds = map(int, sys.argv[1:4])
    here = Path(__file__).parent
    initial = here / "initial.npy"
    np.save(initial, np.random.default_rng(1).random(floats, dtype=np.float32))
    recipe = NumpyFedAvgRecipe(
        name="reference",
        initial_ckpt=str(initial),
        min_clients=sites,
        num_rounds=rounds + 1,  # a round is timed from one to the next
        train_script=str(here / "client.py"),
        train_args=sys.argv[4],
    )
    recipe.execute(PocEnv(num_clients=sites)).get_result(timeout=900.0)
