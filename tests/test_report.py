"""The table that a run ends with."""

from dataclasses import replace

import pytest

from zeromamba.report import METRICS, aggregate, choices, network, paper_choice, plain, result_table
from zeromamba.settings import preset


def test_several_seeds_fit_a_terminal_of_80_columns(demo):
    results = [
        dict.fromkeys(METRICS, share) | {"seed": 0, "gamma": gamma, "chosen_by": "drawn by hand"}
        for share, gamma in ((0.11, 0.1234), (0.55, -0.0567), (0.77, 0.891))
    ]
    data = replace(demo, name="cub")  # the widest: with the paper's row
    shown = plain(result_table(preset("cub", "small"), data, results))
    assert max(map(len, shown.splitlines())) <= 80
    assert "…" not in shown
    assert shown.count("47.7") == shown.count("± 33.6") == len(METRICS)
    assert "3 seeds (mean ± sample standard deviation, of H too: it is not the" in " ".join(shown.split())
    for text in (
        "this run [1]",
        "chance",
        "paper [2]",
        "AUSUC",
        "0.123",
        "-0.0567",
        "0.891",
        "drawn by hand",
        "variant released",
    ):
        assert text in shown, text


def test_each_row_has_its_own_numbers_and_the_caption_tells_how_they_were_made(demo):
    data = replace(demo, name="cub")
    accuracies = dict(zip(METRICS, (0.61, 0.52, 0.43, 0.34, 0.25), strict=True))
    results = [accuracies | {"seed": k, "gamma": 0.1, "chosen_by": how} for k, how in ((0, "so"), (4, "otherwise"))]
    settings = replace(preset("cub", "paper"), image_size=224)
    shown = plain(result_table(settings, data, results))
    cells = ([cell.strip() for cell in line.split("│")[1:-1]] for line in shown.splitlines() if "│" in line)
    rows = {name: numbers for name, *numbers in cells}
    assert "38 seen + 10 unseen classes" in shown
    assert rows["this run [1]"][:5] == ["61.0", "52.0", "43.0", "34.0", "25.0"]
    assert rows["chance"] == ["10.0", "", "", "", "", ""], "of the unseen classes"
    assert rows["paper [2]"] == ["80.0", "72.1", "76.4", "74.2", "", "0.3"]
    caption = " ".join(shown.split())
    assert "[1] VMamba-Small, variant released, 224 px, 2 seeds" in caption
    assert "; so (seed 4: otherwise) [2] Table 1: VMamba-Small, 448 px; gamma fixed by hand" in caption


def test_the_network_is_named_with_whatever_is_not_as_usual():
    usual = preset("cub", "paper")
    assert network(usual) == "VMamba-Small"
    assert network(replace(usual, components="baseline", freeze_backbone=True)) == (
        "VMamba-Small (baseline, backbone frozen)"
    )
    assert network(replace(usual, backbone="vit-base")) == "ViT-Base (pretrained on ImageNet-21K)"
    assert network(replace(usual, backbone="vit-base", weights=None)) == "ViT-Base (from scratch)"
    assert network(replace(usual, weights=None, discretization="zoh")) == (
        "VMamba-Small (from scratch, exact zero-order hold)"
    )
    assert network(replace(usual, backbone="nano", weights=None)) == "VMamba-Nano"


def test_of_results_that_were_chosen_in_different_ways_each_is_named():
    assert choices([("seed 0", "so"), ("seed 1", "so")]) == "so"
    assert choices([("seed 0", "so"), ("seed 1", "else"), ("seed 2", "so")]) == "so (seed 1: else)"
    assert choices([]) == ""


def test_a_single_seed_has_no_deviation():
    one, other = dict.fromkeys(METRICS, 0.1), dict.fromkeys(METRICS, 0.3)
    assert aggregate([one])["H"] == {"mean": 0.1, "deviation": None}
    assert aggregate([one, other])["H"] == pytest.approx({"mean": 0.2, "deviation": 0.02**0.5})


@pytest.mark.parametrize(("dataset", "beside"), [("awa2", True), ("./awa2", False)])
def test_the_paper_s_row_is_for_its_data_set_not_for_a_folder_of_that_name(demo, dataset, beside):
    data = replace(demo, name="awa2", partial="not the whole of AWA2")
    result = dict.fromkeys(METRICS, 0.5) | {"seed": 0, "gamma": 0.1, "chosen_by": "drawn by hand"}
    shown = " ".join(plain(result_table(preset(dataset, "small"), data, [result])).split())
    assert ("paper [2]" in shown) == ("not the whole of AWA2; results do not compare with published" in shown) == beside


def test_of_imagenet_no_gamma_is_said_to_be_the_paper_s(demo):
    assert paper_choice(preset("cub", "paper"), demo).startswith("gamma fixed by hand, epoch: best on test images")
    assert paper_choice(preset("imagenet", "paper"), demo).startswith("no statement of how its epoch was chosen")


def test_a_name_in_square_brackets_is_no_markup(demo):
    data = replace(demo, name="birds [v2]")
    result = dict.fromkeys(METRICS, 0.5) | {"seed": 0, "gamma": 0.1, "chosen_by": "drawn by hand"}
    assert "birds [v2]: " in plain(result_table(preset("demo", "small"), data, [result]))
