"""What stands around a run of a model: its wrappers, what it reads, and hooks that are off again afterwards."""
