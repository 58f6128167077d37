"""Tuning is opt-in, and its result is kept on disk by card."""

import json
from unittest.mock import Mock

import pytest
import torch
from triton.runtime.errors import OutOfResources

from zeromamba.kernels import tuning
from zeromamba.kernels.cut import Config
from zeromamba.kernels.tuning import config_for, tune


@pytest.fixture(autouse=True)
def _apart(tmp_path, monkeypatch):
    monkeypatch.setenv("ZEROMAMBA_CACHE", str(tmp_path / "new" / "cache"))
    tuning._kept.cache_clear()
    yield
    tuning._kept.cache_clear()


def test_the_fastest_choice_is_kept_for_its_card_beside_those_of_others(monkeypatch, capsys):
    seconds = {Config(programs=1): 3.0, Config(programs=2): 1.0, Config(programs=3): 2.0}
    assert tune("card A", seconds.__getitem__, seconds) == Config(programs=2)
    assert tune("card B", seconds.__getitem__, [Config(programs=3)]) == Config(programs=3)
    for card, config in (("card A", Config(programs=2)), ("card B", Config(programs=3)), ("card C", Config())):
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda _, card=card: card)
        assert config_for(torch.device("cuda")) == config
    assert config_for(torch.device("cpu")) == Config()
    assert f" 1000.00 ms  {Config(programs=2)}\n" in capsys.readouterr().out


def test_the_choices_that_were_kept_stay_until_all_are_written(monkeypatch):
    tune("card", lambda _: 1.0, [Config(programs=1)])
    kept = tuning.file().read_text()
    monkeypatch.setattr(tuning.Path, "replace", Mock(side_effect=KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        tune("card", lambda _: 1.0, [Config(programs=2)])
    assert tuning.file().read_text() == kept


def test_without_a_folder_of_its_own_the_home_folder_s_cache_has_them(tmp_path, monkeypatch):
    monkeypatch.delenv("ZEROMAMBA_CACHE")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert tuning.file() == tmp_path / ".cache/zeromamba/scan.json"


def test_without_a_card_there_is_nothing_to_tune(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit, match="no CUDA device here"):
        tuning.main()


def test_a_choice_that_does_not_run_is_told_and_passed_over(capsys):
    def seconds(choice):
        if choice.programs == 1:
            raise torch.OutOfMemoryError("out of memory")
        if choice.programs == 2:
            raise OutOfResources(required=300, limit=227, name="shared memory")
        return 1.0

    assert tune("card", seconds, [Config(programs=n) for n in (1, 2, 3)]) == Config(programs=3)
    assert f"{Config(programs=1)}: does not run (out of memory)" in capsys.readouterr().out
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
    "content",
    [
        *(b'{"card": {"nosuch": 1}}', b'{"card": {"block_d": 128}}', b'{"card": 1}', b"[]", b"{", b"\xff"),
        *(b'{"card": {"programs": "8"}}', b'{"card": {"programs": 0}}', b'{"card": {"programs": 2.5}}'),
    ],
)
def test_a_damaged_file_is_named(content, monkeypatch):
    tuning.file().parent.mkdir(parents=True)
    tuning.file().write_bytes(content)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "card")
    with pytest.raises(ValueError, match=r"scan\.json: cannot be read as tuned choices"):
        config_for(torch.device("cuda"))
