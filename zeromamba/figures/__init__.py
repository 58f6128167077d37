"""The paper's figures on a run of one's own: `python -m zeromamba.figures attention|tsne|erf|gamma CHECKPOINT`.

Each figure is one file: a function that computes what is drawn, one that draws it, and the command's options.
"""

from importlib.util import find_spec

from ..messages import how_to_install

PACKAGES = {"matplotlib": "matplotlib", "sklearn": "scikit-learn"}  # module, and what an installer calls it


def require_packages() -> None:
    """Raise ModuleNotFoundError, saying what to install, unless the packages that draw are there."""
    missing = [package for module, package in PACKAGES.items() if find_spec(module) is None]
    if missing:
        raise ModuleNotFoundError(
            f"figures need {' and '.join(missing)}, not installed here: {how_to_install('figures')}"
        )
