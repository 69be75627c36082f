"""A client that adds its own number; the first one records when it received each model."""

import json
import sys
import time
from pathlib import Path

import numpy as np
import nvflare.client as flare

if __name__ == "__main__":
    flare.init()
    site, times = flare.get_site_name(), Path(sys.argv[1])
    instants: list[float] = []
    while flare.is_running():
        model = flare.receive()
        if model is None:
            break
        if site == "site-1":
            instants.append(time.time())
            times.write_text(json.dumps(instants))
        number = np.float32(int(site.rpartition("-")[2]))
        params = {name: value + number for name, value in model.params.items()}
        flare.send(flare.FLModel(params=params, params_type=flare.ParamsType.FULL))
