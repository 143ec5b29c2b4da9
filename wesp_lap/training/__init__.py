"""The training loop, phases, schedules, checkpoints."""
