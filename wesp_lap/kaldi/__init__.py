"""What lies on disk: data directories, tables, vector archives, trial lists and score files."""
