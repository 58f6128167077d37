"""Checkpoints without a training."""

from zeromamba.build import build_model
from zeromamba.checkpoint import Record, save_checkpoint


def save_untrained(path, settings, data, model=None, gamma=0.0):
    """Write a model, by default a new one of the settings, as if it had been trained on the data for an epoch."""
    model = model or build_model(settings, data.V)
    record = Record.of(data, settings=settings, seed=0, epoch=1, gamma=gamma, chosen_by="not chosen")
    save_checkpoint(path, model, data, record)
    return path
