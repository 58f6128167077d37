"""Put data and model together from settings; backbones are named in their registry, weights are in files."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from torch import Tensor

from .ablations import Baseline, WithoutGRL, WithoutSLP
from .backbones import REGISTRY, BackboneName, build_backbone
from .checkpoint import Checkpoint, adopt_released, adoptable_gamma, in_zeromamba
from .data import ZSLData, load_dataset, require_decodable
from .data.sources import VMAMBA
from .messages import listing
from .model import ZeroMamba, ZeroShotModel
from .settings import Settings
from .weights import Released, load_strict

PRETRAINED_PARTS = ("backbone.", "grl.head.")  # what an ImageNet checkpoint covers


def load_data_sets(runs: Sequence[Settings], missing: Sequence[str] = ()) -> list[ZSLData]:
    """The data set of each run, checked; prints what a user should know of it.

    Raises:
        FileNotFoundError: one, before an image is decoded, for all that is missing: `missing`, then of the data sets.
        ValueError: as `load_dataset` and `require_decodable`.
    """
    data, lacking = [], [*missing]
    for settings in runs:
        repair = settings.rules.repair_word_vectors
        try:
            data.append(
                load_dataset(settings.dataset, settings.data_root, seed=settings.data_seed, repair_word_vectors=repair)
            )
        except FileNotFoundError as error:
            lacking.append(str(error))
    if lacking:
        raise FileNotFoundError("\n".join(dict.fromkeys(lacking)))
    for settings, own in zip(runs, data, strict=True):
        if settings.check_images:
            require_decodable(own.images)
        for note in filter(None, (own.incomparable, *own.notes, *_choices(settings, own))):
            print(f"note: {note}")
    return data


def _choices(settings: Settings, data: ZSLData) -> Iterator[str]:
    """What was taken where there was a choice."""
    yield f"word vectors: {data.word_vectors_source}"
    if settings.protocol == "validation":
        held_out = listing(data.class_names[c] for c in data.val_classes)
        yield f"classes held out for validation: {held_out} ({data.val_source})"


def build_model(settings: Settings, V: Tensor) -> ZeroShotModel:
    """A new model for attributes with word vectors V (a, v), with pretrained backbone if the settings name one.

    Raises:
        FileNotFoundError, ValueError, ImportError: the weights are missing or do not fit, the settings contradict
            the backbone, or it needs a package that cannot be imported.
    """
    model = _assemble(settings, V)
    if (path := settings.weights_file()) is not None:
        load_pretrained(model, settings.backbone, path)
    return model


def missing_weights(settings: Settings) -> list[str]:
    """Where to get the weights file that the settings name, if it is not here; nothing is built or read for it.

    Raises:
        ImportError, ValueError: as `build_model`, of the backbone's package and of weights that nobody released.
    """
    REGISTRY[settings.backbone].needs()
    try:
        if (path := settings.weights_file()) is not None:
            _format_of(settings.backbone, path)
    except FileNotFoundError as error:
        return [str(error)]
    return []


def load_pretrained(model: ZeroShotModel, backbone: BackboneName, path: Path) -> None:
    """Start the backbone, and GRL's head where it keeps one, from released ImageNet weights, strictly.

    Raises:
        FileNotFoundError, ValueError: there is no such file, or it does not fit the model; the message names both.
    """
    released = _format_of(backbone, path)
    keep_head = any(name.startswith("grl.head.") for name, _ in model.named_parameters())
    state = {
        in_zeromamba(name): tensor
        for name, tensor in released.load(path).items()
        if keep_head or not name.startswith("head.")
    }
    load_strict(model, state, path, PRETRAINED_PARTS)


def _format_of(backbone: BackboneName, path: Path) -> Released:
    """The format of a backbone's released weights.

    Raises:
        FileNotFoundError: if there is no such file, with where to get it.
        ValueError: if none were released.
    """
    entry = REGISTRY[backbone]
    if entry.released is None:
        raise ValueError(
            f"--weights {path}: no weights were ever released for backbone {backbone!r}: give --weights None"
        )
    if not path.is_file():
        advice = f"; get it from {entry.url}" if entry.url else ""
        if backbone in VMAMBA:
            advice += ", or into checkpoints/ by python -m zeromamba.data.get vmamba --download"
        raise FileNotFoundError(f"{path}: no such weights file{advice}")
    return entry.released


def restore_model(checkpoint: Checkpoint, settings: Settings) -> ZeroShotModel:
    """A checkpoint's model, in evaluation mode; `settings` may differ from its own in what concerns the machine.

    Raises:
        ValueError: if the weights do not fit.
        ImportError: if the backbone needs a package that cannot be imported.
    """
    # a model without SLP asks of V (a, v) only how many attributes there are, which Z (c, a) tells too
    model = _assemble(settings, checkpoint.state.get("slp.V", checkpoint.Z.T))
    load_strict(model, checkpoint.state, checkpoint.source)
    return model.eval()


def load_trained(
    path: Path, checkpoint: Checkpoint | None, settings: Settings
) -> tuple[Checkpoint, ZeroShotModel, ZSLData]:
    """A trained model with its checkpoint, and the data to measure it on, which are those it was trained on.

    Args:
        path: where the checkpoint lies.
        checkpoint: what was read there; None reads a file of the released code.
        settings: the checkpoint's, but for the data set's place and the machine.

    Raises:
        FileNotFoundError, ValueError, ImportError: as `load_data_sets`, `adopt_released`, `Checkpoint.check_fits` and
            `restore_model`.
    """
    missing = [] if path.is_file() else [f"{path}: there is no such checkpoint"]
    if checkpoint is None and not missing:
        adoptable_gamma(path, settings)  # before an image is decoded
    (data,) = load_data_sets([settings], missing)
    checkpoint = checkpoint or adopt_released(path, settings, data)
    checkpoint.check_fits(data)
    return checkpoint, restore_model(checkpoint, settings), data


def _assemble(settings: Settings, V: Tensor) -> ZeroShotModel:
    backbone = build_backbone(
        settings.backbone,
        discretization=settings.discretization,
        drop_path=settings.drop_path,
        grad_checkpoint=settings.grad_checkpoint,
        impl=settings.scan,
    )
    scoring = (settings.variant, settings.logit_scale)
    match settings.components:
        case "full":
            return ZeroMamba(backbone, V, *scoring, settings.rules.sef_eps)
        case "without-slp":
            return WithoutSLP(backbone, len(V), *scoring)
        case "without-grl":
            return WithoutGRL(backbone, V, *scoring, settings.rules.sef_eps)
        case "baseline":
            return Baseline(backbone, len(V), *scoring)
