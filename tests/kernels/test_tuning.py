"""Tuning is opt-in, and its result is kept on disk by card."""

import json

import pytest
import torch
from triton.runtime.errors import OutOfResources

from zeromamba.kernels import tuning
from zeromamba.kernels.cut import Config
from zeromamba.kernels.tuning import config_for, tune


@pytest.fixture(autouse=True)
def _apart(tmp_path, monkeypatch):
    monkeypatch.setenv("ZEROMAMBA_CACHE", str(tmp_path / "cache"))
    tuning._kept.cache_clear()
    yield
    tuning._kept.cache_clear()


def test_the_fastest_choice_is_kept_for_its_card_beside_those_of_others(monkeypatch):
    seconds = {Config(programs=1): 3.0, Config(programs=2): 1.0, Config(programs=3): 2.0}
    assert tune("card A", seconds.__getitem__, seconds) == Config(programs=2)
    assert tune("card B", seconds.__getitem__, [Config(programs=3)]) == Config(programs=3)
    for card, config in (("card A", Config(programs=2)), ("card B", Config(programs=3)), ("card C", Config())):
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda _, card=card: card)
        assert config_for(torch.device("cuda")) == config
    assert config_for(torch.device("cpu")) == Config()


def test_a_choice_that_does_not_run_is_passed_over():
    def seconds(choice):
        if choice.programs == 1:
            raise torch.OutOfMemoryError("out of memory")
        if choice.programs == 2:
            raise OutOfResources(required=300, limit=227, name="shared memory")
        return 1.0

    assert tune("card", seconds, [Config(programs=n) for n in (1, 2, 3)]) == Config(programs=3)
    with pytest.raises(RuntimeError, match="none of the choices runs on card"):
        tune("card", seconds, [Config(programs=1)])


def test_where_no_file_can_be_read_the_choice_that_ships_serves(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "card")
    tuning.file().mkdir(parents=True)  # no file, but a folder
    assert config_for(torch.device("cuda")) == Config()
    tuning._kept.cache_clear()
    monkeypatch.delenv("ZEROMAMBA_CACHE")
    monkeypatch.setattr(tuning.Path, "home", lambda: (_ for _ in ()).throw(RuntimeError("no home")))
    assert config_for(torch.device("cuda")) == Config()


def test_what_another_process_has_kept_meanwhile_stays(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "card A")
    assert config_for(torch.device("cuda")) == Config()  # which is remembered
    tuning.file().parent.mkdir(parents=True)
    tuning.file().write_text('{"card B": {"block_d": 32, "programs": 2}}')
    tune("card A", lambda _: 1.0, [Config(programs=1)])
    assert json.loads(tuning.file().read_text()).keys() == {"card A", "card B"}


@pytest.mark.parametrize(
    "text",
    [
        *('{"card": {"nosuch": 1}}', '{"card": {"block_d": 48}}', '{"card": 1}', "[]", "{", "\udcff"),
        *('{"card": {"programs": "8"}}', '{"card": {"programs": 0}}', '{"card": {"programs": 2.5}}'),
    ],
)
def test_a_damaged_file_is_named(text, monkeypatch):
    tuning.file().parent.mkdir(parents=True)
    tuning.file().write_text(text, errors="surrogateescape")
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "card")
    with pytest.raises(ValueError, match=r"scan\.json: no tuned choices of zeromamba"):
        config_for(torch.device("cuda"))
