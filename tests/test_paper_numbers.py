"""The paper's printed numbers: read rightly, and consistent with each other."""

import re

import pytest
from shared import SHARED

from zeromamba.experiments.grids import EXPERIMENTS
from zeromamba.paper import PRINTED_METRICS, main_result, printed, printed_rows

ODD_H = {  # as printed, see paper.csv
    ("CDL + OSCO", "cub"),
    ("CDL + OSCO", "awa2"),
    ("ViT-ZSL", "awa2"),
    ("TFVAEGAN + SHIP", "cub"),
    ("ZSLViT", "sun"),
}


def test_every_method_of_every_table_is_there():
    methods = {}
    for row in printed_rows():
        methods.setdefault(row.source, set()).add(row.method)
    assert {source: len(names) for source, names in methods.items()} == {
        "Table 1": 20,
        "Table 3": 6,
        "Table 4": 6,
        "Table 5": 5,
        "Table 6": 5,
        "Table 7": 3,
    }
    keys = [(row.source, row.method, row.dataset) for row in printed_rows()]
    assert len(set(keys)) == len(keys)


def test_the_main_results_are_those_of_the_abstract_s_tables():
    assert [getattr(main_result("sun"), m) for m in PRINTED_METRICS] == [72.4, 56.5, 41.4, 47.7]
    assert main_result("imagenet").czsl == 24.5
    assert main_result("imagenet").H is None
    assert main_result("demo") is None
    assert printed("Table 4", "cub")["ZeroMamba-Small"].params == 51.3


def test_a_printed_h_is_the_harmonic_mean_of_u_and_s():
    """What a wrong column would break."""
    whole = [row for row in printed_rows() if row.U is not None and row.S is not None]
    odd = {(row.method, row.dataset) for row in whole if abs(row.H - 2 * row.U * row.S / (row.U + row.S)) > 0.11}
    assert odd == ODD_H


def lines_from(start):
    """The lines of the paper's text from the one that begins so, each as its cells."""
    text = SHARED / "paper" / "zeromamba.txt"
    if not text.is_file():
        pytest.skip(f"needs {text}")
    lines = text.read_text(encoding="utf-8").splitlines()
    first = next(i for i, line in enumerate(lines) if line.startswith(start))
    return [[cell.strip() for cell in line.rstrip("| ").split("|")] for line in lines[first:]]


@pytest.mark.parametrize(
    ("source", "header", "datasets"),
    [
        ("Table 1", "Method | Backbone", ("cub", "sun", "awa2")),
        ("Table 4", "Model | Params", ("cub", "sun", "awa2")),
        ("Table 5", "baseline | SLP", ("cub", "sun")),
        ("Table 6", "Backbone | CUB", ("cub", "sun", "awa2")),
        ("Table 7", "Method | Image Size", ("cub", "sun", "awa2")),
    ],
)
def test_every_number_stands_in_the_paper_s_text_at_its_method_and_data_set(source, header, datasets):
    results = (cells for cells in lines_from(header) if re.fullmatch(r"\d+\.\d", cells[-1]) or cells[-1] == "–")
    for method in dict.fromkeys(row.method for row in printed_rows() if row.source == source):
        cells = next(results)
        if source != "Table 5":  # whose rows have ticks for names
            assert " ".join(cells).startswith(method.replace(" x ", " "))
        wanted = []
        for dataset in datasets:
            row = printed(source, dataset).get(method)
            wanted += [getattr(row, metric, None) for metric in PRINTED_METRICS]
        assert cells[-len(wanted) :] == ["–" if value is None else str(value) for value in wanted], method


def test_every_number_of_imagenet_stands_in_the_paper_s_text_below_its_method():
    names, *lines = lines_from("Method | SEKG")
    values = next(cells for cells in lines if cells[0] == "(%)")
    for row, name, value in zip(printed("Table 3", "imagenet").values(), names[1:], values[1:], strict=True):
        assert name.startswith(row.method)
        assert value == str(row.czsl)


def test_every_row_of_a_grid_finds_what_it_repeats():
    for experiment in EXPERIMENTS.values():
        for row in experiment.rows:
            for dataset in experiment.datasets:
                assert row.printed is None or row.printed[1] in printed(row.printed[0], dataset), (row, dataset)
