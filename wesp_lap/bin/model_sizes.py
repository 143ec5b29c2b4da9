"""Print the exact sizes of the published models, beside the figures that their papers print."""

from __future__ import annotations

from wesp_lap.cli import run_command
from wesp_lap.model_sizes import sizes


def main() -> None:
    """Print a table, tab-separated: model, frontend, parameters, frontend_parameters, paper.

    "parameters" are those of the model behind the frontend, without the classifier of training;
    "paper" is the printed figure in millions, with a plus where the frontend comes on top.
    """
    print("model", "frontend", "parameters", "frontend_parameters", "paper", sep="\t")
    for size in sizes():
        one = size.combination
        counts = size.parameters, size.frontend_parameters
        print(one.model, one.frontend, *counts, one.paper, sep="\t")


if __name__ == "__main__":
    run_command(main)
