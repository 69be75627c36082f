"""``flo doctor``'s check of where a site trains: on which GPUs or cores, in how many processes."""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from flo.host.diagnostics import Finding

_DRIVER = Path("/proc/driver/nvidia/version")
_finding = partial(Finding, "training")


def training(device: str, processes: int) -> Finding:
    """Report where this machine trains with these settings of site.toml."""
    import torch

    if torch.cuda.is_available():
        count = torch.cuda.device_count()
        names = [torch.cuda.get_device_name(number) for number in range(count)]
        return on_gpus(device, processes, names, [_memory(number) for number in range(count)])
    version = str(torch.__version__)
    lacking = no_gpu(device, has_driver=_DRIVER.exists(), torch_version=version)
    return lacking or on_cpu(device, processes, os.cpu_count() or 1)


def _memory(number: int) -> str:
    import torch

    free, total = (size / (1 << 30) for size in torch.cuda.mem_get_info(number))
    return f"{free:.0f} of {total:.0f} GiB free"


def on_gpus(
    device: str, processes: int, names: Sequence[str], memory: Sequence[str] = ()
) -> Finding:
    """Report which GPUs of these names, with so much memory, train."""
    free = [f" ({text})" for text in memory] or [""] * len(names)
    listed = "; ".join(
        f"cuda:{number} {name}{text}"
        for number, (name, text) in enumerate(zip(names, free, strict=True))
    )
    if device == "cpu":
        return _finding("ok", f"device = cpu: on the CPU, and not on {listed}")
    where = f"{_counted(processes)} on {listed}"
    advice = f"processes = {len(names)} in site.toml gives each GPU one process"
    if processes > len(names):
        return _finding("broken", f"{where}, and a process needs a GPU of its own", advice)
    if len(set(names[:processes])) > 1:
        return _finding(
            "broken",
            f"{where}: processes need GPUs of one model",
            "choose equal ones with CUDA_VISIBLE_DEVICES, or set processes = 1 in site.toml",
        )
    if processes < len(names):
        return _finding("ok", f"{where}; {len(names) - processes} of them idle ({advice})")
    return _finding("ok", where)


def no_gpu(device: str, *, has_driver: bool, torch_version: str) -> Finding | None:
    """Report why torch sees no CUDA device, or None if none is expected.

    ``has_driver``: NVIDIA's driver is loaded.
    """
    built = f"torch {torch_version} sees no CUDA device"
    if has_driver:
        return _finding(
            "broken" if device == "cuda" else "warning",
            f"NVIDIA's driver is loaded, but {built}",
            "install a torch that is built for CUDA: pip install --force-reinstall torch",
        )
    if device == "cuda":
        return _finding(
            "broken",
            f"device = cuda, but {built} and NVIDIA's driver is not loaded",
            'install the driver (nvidia-smi shows it), or set device = "auto" in site.toml',
        )
    return None


def on_cpu(device: str, processes: int, cores: int) -> Finding:
    """Report how many processes train on so many cores."""
    if processes > cores:
        return _finding(
            "warning",
            f"processes = {processes}, but there are {cores} cores and no GPU",
            f"set processes = {cores} or less in site.toml",
        )
    return _finding("ok", f"no GPU; device = {device}: {_counted(processes)} on {cores} CPU cores")


def _counted(processes: int) -> str:
    return "1 process" if processes == 1 else f"{processes} processes"
