"""The command line of the figures."""

from collections.abc import Callable

import tyro

from ..entry import errors_in_one_line, expand_home
from . import require_packages


def main(argv: list[str] | None = None) -> None:
    """Draw one figure; what is wrong with the input ends in a message before anything is computed."""
    with errors_in_one_line():
        require_packages()
        from .attention import Attention  # here, since these import the packages that draw
        from .erf import ERF
        from .gamma import Gamma
        from .run import Command, load_run
        from .style import prepare, save
        from .tsne import TSNE

        figures: dict[str, Callable[..., Command]] = {"attention": Attention, "tsne": TSNE, "erf": ERF, "gamma": Gamma}
        command = tyro.extras.subcommand_cli_from_dict(
            figures,
            args=expand_home(argv),
            prog="python -m zeromamba.figures",
            description="Draw figures like the paper's from a checkpoint.",
        )
        run = load_run(command)
        prepare(command.file)
        save(command.draw(run), command.file)
    print(f"figure: {command.file}")


if __name__ == "__main__":
    main()
