"""The confined process that holds patients, and the pipe to it."""
