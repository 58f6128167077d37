"""Every setting of a run, the presets, and the two protocols. The command line is generated from `Settings`."""

from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal, get_type_hints

from .backbones import REGISTRY, BackboneName
from .checks import require, require_at_least_one, require_kinds, require_seeds
from .files import tuples_for_lists
from .kernels import Discretization, Impl
from .machine import CORES
from .messages import option
from .model import VariantName

ProtocolName = Literal["validation", "paper"]
PresetName = Literal["paper", "small"]
Components = Literal["full", "without-slp", "without-grl", "baseline"]


@dataclass(frozen=True)
class Rules:
    """Which habits of the released training code a protocol keeps; how it chooses epoch and gamma: `protocol.py`."""

    shuffle: bool  # visit the training images in a new order every epoch
    decay_everything: bool  # weight decay on norms, biases, A_log and D too
    repair_word_vectors: bool  # replace an all-zero word vector
    sef_eps: float  # least norm that SeF divides by


RULES: dict[ProtocolName, Rules] = {
    "validation": Rules(shuffle=True, decay_everything=False, repair_word_vectors=True, sef_eps=1e-6),
    "paper": Rules(shuffle=False, decay_everything=True, repair_word_vectors=False, sef_eps=0.0),
}

CHECKPOINTS = Path("checkpoints")  # where released weights are looked for

PAPER_GAMMA = {"cub": 0.3, "sun": 0.35, "awa2": 0.98}  # "Implementation Details", fixed by hand for the test images


@dataclass(frozen=True)
class Settings:
    """All that a run is made from. The text below each setting is its help on the command line.

    Raises:
        ValueError: for a value that is out of its range, or that another one contradicts, naming the option.
    """

    dataset: str = "demo"
    """demo, cub, sun, awa2, imagenet, or a folder of your own (see the README)"""
    data_root: Path = Path("data")
    """folder that holds CUB/, SUN/, AWA2/, ImageNet/, xlsa17/ and w2v/"""
    preset: PresetName = "paper"
    """paper: default settings are the paper's for the data set or, where it states none, the released code's;
    small: default settings are for a small machine; the demo has its own with either"""
    protocol: ProtocolName = "validation"
    """validation: choose epoch and gamma on held-out validation classes;
    paper: as the released code, fix gamma and choose the epoch on test images"""
    seeds: tuple[int, ...] = (0,)
    """one training run for each seed; the table gives mean and standard deviation"""
    data_seed: int = 0
    """seed of ImageNet's split, of a folder's test images, and of validation classes if none are published"""

    variant: VariantName = "released"
    """released: dot-product scores, ImageNet classifier kept, as in the released code;
    paper: cosine scores, a linear layer on the pooled feature, as in the paper's text"""
    backbone: BackboneName = "small"
    """the visual encoder; nano to base are sizes of VMamba; DeiT and ViT need pip install -e '.[vit]'"""
    weights: Literal["released"] | Path | None = "released"
    """ImageNet weights that the backbone starts from: the path of a released file, or
    released: look for it in checkpoints/ under its own name; None: train from scratch"""
    freeze_backbone: bool = False
    """keep the backbone's weights and train only what is built on it: less memory and time"""
    components: Components = "full"
    """full: ZeroMamba; without-slp, without-grl, baseline: the ablations of the paper's Table 5"""
    discretization: Discretization = "euler"
    """euler: Bbar = dt*B, as in pretrained VMamba; zoh: exact zero-order hold, eq. (2)"""
    drop_path: float | None = None
    """rate of stochastic depth; None: the published rate of the backbone"""
    grad_checkpoint: bool = False
    """recompute each block in the backward pass: less memory, more time"""
    logit_scale: float = 1.0
    """factor on the class scores of eq. (12); the paper prints none"""

    image_size: int = 448
    """images are resized to a square with this side, in pixels"""
    epochs: int = 100
    """passes over the training images"""
    batch_size: int = 16
    """images per step"""
    optimizer: Literal["sgd", "adamw"] = "sgd"
    """sgd (with momentum 0.9) or adamw"""
    lr: float = 1e-3
    """learning rate of backbone, SLP and GRL"""
    lr_mlp: float = 1e-4
    """learning rate of the MLP in eq. (7)"""
    weight_decay: float = 1e-3
    """L2 penalty (sgd) or decoupled decay (adamw)"""
    schedule: Literal["step", "cosine"] = "step"
    """step: halved after epochs 10, 20, 30, 40; cosine: to zero at the last epoch, after one epoch of warm-up"""
    lambda_sc: float = 1.0
    """weight of the semantic constraint in eq. (13)"""
    gamma: float | None = None
    """subtracted from the probability of seen classes, eq. (14);
    None: chosen on validation classes, or the published value with --protocol paper"""

    device: str = "auto"
    """cpu, cuda, cuda:1, ...; auto uses a CUDA device if there is one"""
    precision: Literal["float32", "bf16"] = "float32"
    """bf16: run the forward pass under autocast; parameters stay float32"""
    scan: Impl = "auto"
    """implementation of the selective scan; auto: triton on an NVIDIA GPU, torch elsewhere"""
    workers: int = min(8, CORES)
    """processes that read images; by default as many as the cores that this process may use, at most 8"""
    check_images: bool = True
    """read every image once before training starts, to find broken ones"""

    def __post_init__(self) -> None:
        require_kinds(vars(self), get_type_hints(Settings), option)
        for names, holds, expected in (
            (("lr", "lr_mlp", "logit_scale"), lambda value: value > 0, "a positive number"),
            (("workers", "weight_decay", "lambda_sc"), lambda value: value >= 0, "0 or more"),
            (("drop_path",), lambda rate: rate is None or 0 <= rate < 1, "a rate from 0 to below 1, or None"),
        ):
            require(self, names, holds, expected)
        require_at_least_one(self, "epochs", "batch_size", "image_size")
        require_seeds(self, "seeds", "data_seed")
        if self.freeze_backbone and self.weights is None:
            raise ValueError("--freeze-backbone needs --weights: a backbone from scratch would stay random")
        if not self.seeds or len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"--seeds {self.seeds}: expected one or more different numbers")

    @property
    def rules(self) -> Rules:
        rules = RULES[self.protocol]
        # the order to keep is a published file's: elsewhere images are sorted by class, and a batch would be of one
        return rules if self.dataset in PAPER_GAMMA else replace(rules, shuffle=True)

    @property
    def chosen_by(self) -> str:
        """How a number of this run was made; goes wherever the number does."""
        if self.protocol == "paper":
            # the paper prints a data set's gamma for the full model alone
            of = " for the whole ZeroMamba" if self.gamma is None and self.components != "full" else ""
            epochs = "best epochs on test images (one for CZSL, another for U, S, H and AUSUC)"
            label = f"{epochs}, gamma fixed by hand{of} (as the released code)"
        elif self.gamma is None:
            label = "epoch and gamma chosen on validation classes"
        else:
            label = "epoch chosen on validation classes, gamma fixed by hand"
        if self.dataset == "imagenet" and self.weights is not None:
            label += "; the backbone saw all classes of ImageNet-1K in pretraining: none is unseen to it"
        return label

    def anywhere(self) -> "Settings":
        """These, for using a model that may have been trained on another machine."""
        workers = min(self.workers, Settings.workers)
        return replace(self, device="auto", scan="auto", grad_checkpoint=False, workers=workers)

    def fixed_gamma(self) -> float | None:
        """The gamma that is given rather than chosen on validation classes; None where it is to be chosen.

        Raises:
            ValueError: under the paper's protocol, for a data set for which the paper prints none, and for class
                scores that the printed ones do not belong to.
        """
        if self.gamma is not None or self.protocol == "validation":
            return self.gamma
        if self.dataset not in PAPER_GAMMA:
            raise ValueError(
                f"--protocol paper fixes gamma, and the paper prints none for {self.dataset!r}: give --gamma, "
                "or use --protocol validation, which chooses it on validation classes"
            )
        if self.variant != "released" or self.logit_scale != 1:
            raise ValueError(
                "--protocol paper fixes gamma, and the printed ones belong to --variant released with --logit-scale 1: "
                "a softmax over cosines stays far below them, and S and H would be 0. Give --gamma, "
                "or use --protocol validation, which chooses it on validation classes"
            )
        return PAPER_GAMMA[self.dataset]

    def weights_file(self) -> Path | None:
        """The file that `weights` names; None trains from scratch.

        Raises:
            ValueError: for "released", if nobody released weights of this backbone.
        """
        if self.weights != "released":
            return self.weights
        name = REGISTRY[self.backbone].file
        if name is None:
            raise ValueError(
                f"--weights released: no public weights are known for backbone {self.backbone!r}; give None or a file"
            )
        return CHECKPOINTS / name

    def to_json(self) -> dict[str, Any]:
        """Plain values that `from_json` reads back; paths are absolute, to name the same from any folder."""
        values = {k: str(v.absolute()) if isinstance(v, Path) else v for k, v in asdict(self).items()}
        if self.dataset not in _NAMED:
            values["dataset"] = str(Path(self.dataset).absolute())
        return values

    @classmethod
    def from_json(cls, values: dict[str, Any], source: str) -> "Settings":
        """Settings from the values of `to_json`; `source` is named in errors.

        A missing setting was introduced after the file was written; its default reproduces the earlier behaviour.

        Raises:
            ValueError: if a field is unknown, or its value is none that this version takes.
        """
        values = cls().to_json() | values
        if unknown := values.keys() - {f.name for f in fields(cls)}:
            raise ValueError(f"{source}: unknown settings {sorted(unknown)}: use the version that wrote them")
        values = tuples_for_lists(values)
        paths = {k: Path(v) for k in ("data_root", "weights") if isinstance(v := values[k], str) and v != "released"}
        try:
            return cls(**{**values, **paths})
        except ValueError as error:
            raise ValueError(f"{source}: {error}") from error


# A network that a laptop trains from scratch.
_SMALL: dict[str, Any] = {
    "backbone": "nano",
    "weights": None,
    "image_size": 64,
    "epochs": 20,
    "batch_size": 32,
    "optimizer": "adamw",
    "lr": 2e-3,
    "lr_mlp": 2e-3,
    "weight_decay": 0.05,
    "schedule": "cosine",
    "drop_path": 0.0,
}
# The demo's, under either preset: there is no published setting. Chosen on its validation classes by AUSUC, with 20
# epochs: cosines, scale 10 and batches of 16 gave 69.4 % (scale 20: 61.0); dot products did not train on every seed.
# 12 epochs fit into four minutes even on slow machines. No workers: its pictures are in memory.
_DEMO: dict[str, Any] = {
    **_SMALL,
    "variant": "paper",
    "logit_scale": 10.0,
    "epochs": 12,
    "batch_size": 16,
    "workers": 0,
}

# The data sets that go by a name, and each one's own settings; any other name is the path of a folder.
_NAMED: dict[str, dict[str, Any]] = {
    "cub": {"lambda_sc": 1.0},
    "sun": {"lambda_sc": 0.2},
    "awa2": {"lambda_sc": 0.0},
    "imagenet": {},  # the paper states no setting of its own for Table 3
    "demo": _DEMO,
}


def preset(dataset: str, name: PresetName) -> Settings:
    """The settings that a run on `dataset` starts from; a preset holds only differences from the defaults."""
    own = _NAMED.get(dataset, {})
    differences = _SMALL | own if name == "small" else own
    return replace(Settings(), dataset=dataset, preset=name, **differences)
