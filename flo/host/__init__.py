"""This process and this machine: installed code, logs, memory, proxies, diagnostics."""
