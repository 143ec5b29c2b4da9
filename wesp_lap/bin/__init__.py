"""The commands: ``python -m wesp_lap.bin.NAME --help``."""
