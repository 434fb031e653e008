"""A training by BasicSR's train.py: its steps, its data, its checkpoints, how it is stopped and gone on with."""
