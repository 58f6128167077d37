"""Every experiment as data: its rows are changes of settings, beside the row of the paper that they repeat.

What a row does not change comes from the preset of its data set, which is the paper's where the paper states it.
"""

from dataclasses import dataclass, field, replace
from typing import Any, Literal

from ..settings import Settings, preset

ExperimentName = Literal[
    "table1", "table3", "table4", "table5", "table6", "table7", "figure1", "figure6", "figure7"
]  # fmt: skip
ChartName = Literal["parameters", "sweeps", "gamma"]


@dataclass(frozen=True)
class Row:
    """One line of a result table."""

    name: str
    changes: dict[str, Any] = field(default_factory=dict)  # of `Settings`
    printed: tuple[str, str] | None = None  # (source, method) in paper.csv; None where the paper prints no number


@dataclass(frozen=True)
class Experiment:
    """A grid of runs: rows x data sets x seeds."""

    title: str
    rows: tuple[Row, ...]
    source: str | None = None  # the table of the paper whose rows of other methods are shown too
    datasets: tuple[str, ...] = ("cub", "sun", "awa2")  # the paper's
    chart: ChartName | None = None
    reduced: bool = False  # whether this is the grid at a size that two CPU cores run through

    def base(self, dataset: str) -> Settings:
        """What the runs on a data set start from."""
        return replace(preset(dataset, "small"), epochs=REDUCED_EPOCHS) if self.reduced else preset(dataset, "paper")


def _mlp_head(title: str, backbone: str, source: str) -> Row:
    """Baseline (5) on a backbone, which is how Tables 4 and 6 compare backbones."""
    return Row(title, {"backbone": backbone, "components": "baseline"}, (source, title))


def _zeromamba(source: str, method: str = "ZeroMamba-Small", **changes: Any) -> Row:
    return Row(method, changes, (source, method))


def _sweep(setting: str, symbol: str, values: tuple[float, ...]) -> tuple[Row, ...]:
    return tuple(Row(f"{symbol} = {value:g}", {setting: value}) for value in values)


_TABLE_4 = (
    _mlp_head("LocalVim-Tiny", "localvim-tiny", "Table 4"),
    _mlp_head("Vim-Small", "vim-small", "Table 4"),
    _mlp_head("LocalVim-Small", "localvim-small", "Table 4"),
    _mlp_head("LocalVMamba-Small", "localvmamba-small", "Table 4"),
    _zeromamba("Table 4", "ZeroMamba-Tiny", backbone="tiny"),
    _zeromamba("Table 4"),
)
_TABLE_6 = (
    _mlp_head("DeiT-Small", "deit-small", "Table 6"),
    _mlp_head("DeiT-Base", "deit-base", "Table 6"),
    _mlp_head("ViT-Base", "vit-base", "Table 6"),
    _mlp_head("VMamba-Small", "small", "Table 6"),
    _zeromamba("Table 6"),
)

EXPERIMENTS: dict[ExperimentName, Experiment] = {
    "table1": Experiment("Table 1: main results", (_zeromamba("Table 1", "ZeroMamba"),), "Table 1"),
    "table3": Experiment("Table 3: ImageNet", (_zeromamba("Table 3", "ZeroMamba"),), "Table 3", ("imagenet",)),
    "table4": Experiment("Table 4: Vision-Mamba backbones", _TABLE_4, "Table 4"),
    "table5": Experiment(
        "Table 5: components",
        (
            Row("baseline", {"components": "baseline"}, ("Table 5", "baseline")),
            Row("without SLP", {"components": "without-slp"}),  # these two rows cannot be told apart in paper.csv
            Row("without GRL", {"components": "without-grl"}),
            Row("without L_SC", {"lambda_sc": 0.0}, ("Table 5", "without L_SC")),
            Row("full", {}, ("Table 5", "full")),
        ),
        "Table 5",
        ("cub", "sun"),
    ),
    "table6": Experiment("Table 6: backbones with an MLP head", _TABLE_6, "Table 6"),
    "table7": Experiment(
        "Table 7: image sizes",
        tuple(_zeromamba("Table 7", f"ZeroMamba {n} x {n}", image_size=n) for n in (224, 384, 448)),
        "Table 7",
    ),
    "figure1": Experiment("Figure 1: accuracy over parameters", _TABLE_4 + _TABLE_6[:-1], chart="parameters"),
    # the values that the paper swept stand in its figure only; these are ours, around those that its text names
    "figure6": Experiment(
        "Figure 6: lambda_SC and batch size",
        _sweep("lambda_sc", "lambda_SC", (0.0, 0.2, 0.5, 1.0, 2.0)) + _sweep("batch_size", "batch", (8, 16, 32)),
        datasets=("cub", "sun"),
        chart="sweeps",
    ),
    "figure7": Experiment(
        "Figure 7: calibration gamma", (_zeromamba("Table 1", "ZeroMamba"),), datasets=("cub", "sun"), chart="gamma"
    ),
}

# --reduced: the same grids at a size that two CPU cores run through, on the demo unless data sets are named.
REDUCED_EPOCHS = 3
# What stands in for a value that a row names; the rest of a reduced run is the preset "small".
STAND_INS: dict[str, dict[Any, Any]] = {
    "backbone": {
        "tiny": "nano",
        "small": "nano",
        "vim-small": "vim-nano",
        "localvim-tiny": "localvim-nano",
        "localvim-small": "localvim-nano",
        "localvmamba-small": "localvmamba-nano",
        "deit-small": "deit-tiny",
        "deit-base": "deit-tiny",
        "vit-base": "deit-tiny",
    },
    "image_size": {224: 32, 384: 48, 448: 64},
}
REDUCED_NOTE = (
    f"REDUCED: a small network from random weights, at most 64 x 64 pixels, {REDUCED_EPOCHS} epochs. "
    "It shows that the experiment runs, and is no measurement of the paper's method."
)


def at_reduced_size(experiment: Experiment) -> Experiment:
    """The same grid on the demo, with what stands in for the values that its rows name."""

    def stand_ins(row: Row) -> Row:
        changes = {name: STAND_INS.get(name, {}).get(value, value) for name, value in row.changes.items()}
        return replace(row, changes=changes)

    rows = tuple(map(stand_ins, experiment.rows))
    return replace(experiment, rows=rows, datasets=("demo",), reduced=True)
