"""Put a ZeroMamba together from settings; sizes live in the backbone's table, weights in files."""

from torch import Tensor

from .backbone import vmamba
from .checkpoint import Checkpoint
from .model import ZeroMamba
from .settings import Settings
from .weights import load_strict, load_vmamba, pretrained

PRETRAINED_PARTS = ("backbone.", "grl.norm.", "grl.head.")  # what an ImageNet checkpoint covers


def build_model(settings: Settings, V: Tensor) -> ZeroMamba:
    """A new ZeroMamba for attributes with word vectors V (a, v), with pretrained backbone if the settings name one."""
    model = _assemble(settings, V)
    if settings.weights is not None:
        state = pretrained(load_vmamba(settings.weights), keep_head=bool(model.variant.head_classes))
        load_strict(model, state, settings.weights, PRETRAINED_PARTS)
    return model


def restore_model(checkpoint: Checkpoint, settings: Settings) -> ZeroMamba:
    """The model of a checkpoint; `settings` may differ from its own in what concerns the machine."""
    # V (a, v) may be what the file lacks, which the next line tells; Z (c, a) has as many attributes
    model = _assemble(settings, checkpoint.state.get("slp.V", checkpoint.Z.T))
    load_strict(model, checkpoint.state, checkpoint.source)
    return model


def _assemble(settings: Settings, V: Tensor) -> ZeroMamba:
    backbone = vmamba(
        settings.backbone,
        discretization=settings.discretization,
        drop_path=settings.drop_path,
        grad_checkpoint=settings.grad_checkpoint,
        impl=settings.scan,
    )
    return ZeroMamba(backbone, V, settings.variant, settings.logit_scale, settings.protocol_rules.sef_eps)
