"""The audit log: entries, hash chain, verification, and a limit on remotely caused entries."""
