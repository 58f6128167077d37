"""What chooses the epoch and gamma, with fits that cost nothing and measurements that are made up."""

import copy
import gc
import weakref
from dataclasses import replace

import pytest
import torch

from zeromamba import protocol
from zeromamba.checkpoint import load_checkpoint
from zeromamba.evaluation import GZSL, Evaluation
from zeromamba.protocol import SeedRun, final_split, search_split
from zeromamba.settings import preset
from zeromamba.training import Fit

#: After each epoch; each measure has its highest at another one, and the last epoch none.
EPOCHS = [
    Evaluation(czsl=0.9, gzsl=GZSL(gamma=0.1, U=0.1, S=0.1), ausuc=0.2, per_class={"czsl": {}, "gzsl": {}}),
    Evaluation(czsl=0.2, gzsl=GZSL(gamma=0.2, U=0.3, S=0.2), ausuc=0.8, per_class={"czsl": {}, "gzsl": {}}),
    Evaluation(czsl=0.3, gzsl=GZSL(gamma=0.3, U=0.7, S=0.8), ausuc=0.3, per_class={"czsl": {}, "gzsl": {}}),
    Evaluation(czsl=0.1, gzsl=GZSL(gamma=0.4, U=0.2, S=0.2), ausuc=0.1, per_class={"czsl": {}, "gzsl": {}}),
]
TEST = Evaluation(czsl=0.55, gzsl=GZSL(gamma=0.2, U=0.5, S=0.25), ausuc=0.4, per_class={"czsl": {}, "gzsl": {}})


class MadeUpFit:
    """A `Fit` that trains nothing; its model's only weight is the number of epochs."""

    def __init__(self, model, data, split, *_):
        self.model, self.split, self.history = model, split, []

    def epochs(self, last):
        while len(self.history) < last:
            record = {"epoch": len(self.history) + 1}
            self.model.weight.data.fill_(record["epoch"])
            yield record
            self.history.append(record)


@pytest.fixture
def measured(demo, monkeypatch):
    """The splits and gammas of all measurements, in their order."""
    calls = []

    class MadeUpScores:
        def __init__(self, model, data, split, settings, device):
            on_validation = torch.equal(split.seen, search_split(demo, 0).seen)
            epoch = EPOCHS[int(model.weight) - 1]
            self.split, self.evaluation = split, epoch if on_validation or settings.protocol == "paper" else TEST

        def evaluate(self, gamma):
            calls.append((self.split, gamma))
            return self.evaluation

        def save(self, path):
            path.write_text(str(self.evaluation))

    monkeypatch.setattr(protocol, "Fit", MadeUpFit)
    monkeypatch.setattr(protocol, "build_model", lambda settings, V: torch.nn.Linear(1, 1, bias=False))
    monkeypatch.setattr(protocol, "score_split", MadeUpScores)
    return calls


@pytest.mark.parametrize("seed", [0, 1])
def test_the_largest_area_on_validation_classes_chooses_the_epoch_and_gamma(seed, demo, measured, tmp_path):
    settings = replace(preset("demo", "paper"), epochs=4)
    result = SeedRun(settings, demo, seed, tmp_path, torch.device("cpu")).result()
    *validated, (split, gamma) = measured
    assert [g for _, g in validated] == [None] * 4
    assert all(torch.equal(s.evaluated, search_split(demo, seed).evaluated) for s, _ in validated)
    assert torch.equal(split.evaluated, final_split(demo).evaluated), "the test images are met once"
    assert gamma == 0.2
    assert result["epoch"] == 2
    assert [result[k] for k in ("czsl", "U", "S", "ausuc", "gamma")] == [0.55, 0.5, 0.25, 0.4, 0.2]
    assert result["validation"]["ausuc"] == 0.8
    checkpoint = load_checkpoint(tmp_path / f"seed-{seed}/model.safetensors")
    assert checkpoint.state["weight"].item() == checkpoint.record.epoch == 2
    assert checkpoint.record.gamma == 0.2


def test_the_first_fit_is_gone_when_the_second_begins(demo, measured, tmp_path, monkeypatch):
    """Of two models and optimisers one would lie idle in a card's memory."""
    before = []

    class RealFit(Fit):
        """One that could train, but does not."""

        epochs = MadeUpFit.epochs

        def __init__(self, *arguments):
            assert [made() for made in before] == [None] * len(before)
            super().__init__(*arguments)
            before.extend(weakref.ref(v) for v in (self.model, self.optimizer))

    model = torch.nn.Linear(1, 1, bias=False)
    model.backbone = torch.nn.Identity()
    monkeypatch.setattr(protocol, "build_model", lambda settings, V: copy.deepcopy(model))
    monkeypatch.setattr(protocol, "Fit", RealFit)
    gc.disable()  # it might come by chance
    try:
        SeedRun(replace(preset("demo", "paper"), epochs=2), demo, 0, tmp_path, torch.device("cpu")).result()
    finally:
        gc.enable()
    assert len(before) == 4


def test_a_seed_draws_the_initial_weights_whatever_was_drawn_before(demo, measured, tmp_path, monkeypatch):
    begun = []

    def begin(model, data, split, settings, seed, *rest):
        begun.append((seed, model.weight.item()))
        return MadeUpFit(model, data, split)

    monkeypatch.setattr(protocol, "Fit", begin)
    for folder, seed in ("first", 0), ("again", 0), ("other", 1):
        settings = replace(preset("demo", "paper"), epochs=1)
        result = SeedRun(settings, demo, seed, tmp_path / folder, torch.device("cpu")).result()
        record = load_checkpoint(tmp_path / folder / f"seed-{seed}/model.safetensors").record
        assert result["seed"] == record.seed == seed
    (_, first), *_, (_, other) = begun
    assert begun == [(0, first)] * 4 + [(1, other)] * 2, "of the search and the final fit alike"
    assert first != other


def test_a_gamma_that_nothing_speaks_for_is_not_said_to_be_chosen(demo, measured, tmp_path, monkeypatch):
    settings = replace(preset("demo", "paper"), epochs=1)
    for name, S, given, told in ("some", 0.1, None, False), ("none", 0.0, None, True), ("given", 0.0, 0.3, False):
        monkeypatch.setitem(globals(), "EPOCHS", [replace(EPOCHS[0], gzsl=GZSL(gamma=0, U=0.1, S=S))])
        result = SeedRun(replace(settings, gamma=given), demo, 0, tmp_path / name, torch.device("cpu")).result()
        assert ("(gamma 0: H was 0 on validation images whatever gamma was)" in result["chosen_by"]) == told
        checkpoint = load_checkpoint(tmp_path / name / "seed-0/model.safetensors")
        assert checkpoint.record.chosen_by == result["chosen_by"]
        assert measured[-2][1] == given, "with which the validation images are measured"


def test_of_equal_epochs_the_first_is_chosen(demo, measured, tmp_path, monkeypatch):
    monkeypatch.setitem(globals(), "EPOCHS", [EPOCHS[0], EPOCHS[1], EPOCHS[1], EPOCHS[3]])
    settings = replace(preset("demo", "paper"), epochs=4)
    assert SeedRun(settings, demo, 0, tmp_path, torch.device("cpu")).result()["epoch"] == 2


def test_the_paper_s_protocol_takes_the_best_epochs_on_test_images(demo, measured, tmp_path, monkeypatch):
    numbered = [
        replace(e, per_class={kind: {"class": epoch / 10} for kind in e.per_class}) for epoch, e in enumerate(EPOCHS, 1)
    ]
    monkeypatch.setitem(globals(), "EPOCHS", numbered)
    settings = replace(preset("demo", "paper"), epochs=4, protocol="paper", gamma=0.6)
    result = SeedRun(settings, demo, 0, tmp_path, torch.device("cpu")).result()
    assert [g for _, g in measured] == [0.6] * 4
    assert all(torch.equal(s.evaluated, final_split(demo).evaluated) for s, _ in measured)
    assert (result["epoch_czsl"], result["czsl"]) == (1, 0.9)
    assert (result["epoch"], result["U"], result["S"], result["ausuc"]) == (3, 0.7, 0.8, 0.3)
    assert result["per_class"] == {"czsl": {"class": 0.1}, "gzsl": {"class": 0.3}}
    for kind, epoch, measures in (("czsl", 1, "CZSL"), ("gzsl", 3, "U, S, H and AUSUC")):
        checkpoint = load_checkpoint(tmp_path / f"seed-0/model_best_{kind}.safetensors")
        assert checkpoint.state["weight"].item() == checkpoint.record.epoch == epoch
        assert checkpoint.record.chosen_by == f"{settings.chosen_by}; this is the epoch for {measures}"
        assert (tmp_path / f"seed-0/scores_best_{kind}.npz").read_text() == str(EPOCHS[epoch - 1])


def test_of_equal_epochs_the_paper_s_protocol_takes_the_last_for_CZSL_and_the_first_for_H(
    demo, measured, tmp_path, monkeypatch
):
    """As the released train.py: `best_performance_record[3] <= CZSL`, but `best_performance_record[2] < H`."""
    monkeypatch.setitem(globals(), "EPOCHS", [EPOCHS[1], EPOCHS[2], EPOCHS[2], EPOCHS[1]])
    settings = replace(preset("demo", "paper"), epochs=4, protocol="paper", gamma=0.6)
    result = SeedRun(settings, demo, 0, tmp_path, torch.device("cpu")).result()
    assert (result["epoch_czsl"], result["epoch"]) == (3, 2)
    for kind, epoch in (("czsl", 3), ("gzsl", 2)):
        assert load_checkpoint(tmp_path / f"seed-0/model_best_{kind}.safetensors").state["weight"].item() == epoch
