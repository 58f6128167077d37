"""Weights on disk: released VMamba and ZeroMamba checkpoints under our names, and safetensors of our own.

Strictly: a key that no rule knows, a missing one, or a tensor of another shape is an error naming it.
"""

import os
import pickle
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

State = dict[str, Tensor]
Format = Literal["safetensors", "vmamba", "zeromamba"]

# Released name -> ours, in an `ImageNetClassifier`; {i} and {j} are numbers, {p} is weight or bias.
VMAMBA_KEYS = {
    "patch_embed.0.{p}": "backbone.stem.conv1.{p}",
    "patch_embed.2.{p}": "backbone.stem.norm1.{p}",
    "patch_embed.5.{p}": "backbone.stem.conv2.{p}",
    "patch_embed.7.{p}": "backbone.stem.norm2.{p}",
    "layers.{i}.blocks.{j}.norm.{p}": "backbone.stages.{i}.blocks.{j}.norm1.{p}",
    "layers.{i}.blocks.{j}.op.in_proj.weight": "backbone.stages.{i}.blocks.{j}.ss2d.in_proj.weight",
    "layers.{i}.blocks.{j}.op.conv2d.weight": "backbone.stages.{i}.blocks.{j}.ss2d.conv.weight",
    "layers.{i}.blocks.{j}.op.x_proj_weight": "backbone.stages.{i}.blocks.{j}.ss2d.x_proj",
    "layers.{i}.blocks.{j}.op.dt_projs_weight": "backbone.stages.{i}.blocks.{j}.ss2d.dt_weight",
    "layers.{i}.blocks.{j}.op.dt_projs_bias": "backbone.stages.{i}.blocks.{j}.ss2d.dt_bias",
    "layers.{i}.blocks.{j}.op.A_logs": "backbone.stages.{i}.blocks.{j}.ss2d.A_log",
    "layers.{i}.blocks.{j}.op.Ds": "backbone.stages.{i}.blocks.{j}.ss2d.D",
    "layers.{i}.blocks.{j}.op.out_norm.{p}": "backbone.stages.{i}.blocks.{j}.ss2d.norm.{p}",
    "layers.{i}.blocks.{j}.op.out_proj.weight": "backbone.stages.{i}.blocks.{j}.ss2d.out_proj.weight",
    "layers.{i}.blocks.{j}.norm2.{p}": "backbone.stages.{i}.blocks.{j}.norm2.{p}",
    "layers.{i}.blocks.{j}.mlp.fc1.{p}": "backbone.stages.{i}.blocks.{j}.mlp.0.{p}",
    "layers.{i}.blocks.{j}.mlp.fc2.{p}": "backbone.stages.{i}.blocks.{j}.mlp.2.{p}",
    "layers.{i}.downsample.1.{p}": "backbone.stages.{i}.downsample.conv.{p}",
    "layers.{i}.downsample.3.{p}": "backbone.stages.{i}.downsample.norm.{p}",
    "classifier.norm.{p}": "norm.{p}",
    "classifier.head.{p}": "head.{p}",
    # the same under the names of VMamba's later files
    "layers.{i}.blocks.{j}.op.x_proj.weight": "backbone.stages.{i}.blocks.{j}.ss2d.x_proj",
    "layers.{i}.blocks.{j}.op.dt_projs.weight": "backbone.stages.{i}.blocks.{j}.ss2d.dt_weight",
}

# Released name -> ours of what ZeroMamba adds; `VisionMamba.` stands before the names of VMamba's own parameters.
ZEROMAMBA_KEYS = {
    "VisionMamba.classifier2.V": "slp.V",
    "VisionMamba.classifier2.W1": "slp.W1",
    "VisionMamba.classifier2.W2": "slp.W2",
    "clf_head2.0.weight": "slp.mlp.0.weight",
    "clf_head2.2.weight": "slp.mlp.2.weight",
    "clf_head.weight": "grl.proj.weight",
}

ROUTES = 4
# Parameters of SS2D that carry the route as their first dimension, and their number of dimensions with it.
PER_ROUTE = {"x_proj": 3, "dt_weight": 3, "dt_bias": 2, "A_log": 3, "D": 2}


def detect_format(path: str | Path) -> Format:
    """What a weights file is: "safetensors" (ours), "vmamba" or "zeromamba" (the released ones).

    Raises:
        FileNotFoundError, ValueError: there is no such file, or it is none of the three.
    """
    try:
        with safetensors.safe_open(_existing(path), framework="pt"):
            return "safetensors"
    except safetensors.SafetensorError:
        content = _read_torch(path)
    if "model" in content:
        return "vmamba"
    if any(str(key).startswith("VisionMamba.") for key in content):
        return "zeromamba"
    raise ValueError(
        f"{path}: expected safetensors, a VMamba checkpoint (weights under 'model') or a released ZeroMamba "
        f"checkpoint ('VisionMamba.*'); it has {_listing(content)}"
    )


def load_vmamba(path: str | Path) -> State:
    """The state of an `ImageNetClassifier` from a released VMamba, e.g. vssm_small_0229_ckpt_epoch_222.pth.

    Raises:
        FileNotFoundError, ValueError: there is no such file, it would run code, it holds no 'model', or a key
            of it is not of VMamba v2.
    """
    content = _read_torch(path)
    if not isinstance(content.get("model"), dict):
        raise ValueError(
            f"{path}: expected a VMamba checkpoint with its weights under 'model'; it has {_listing(content)}"
        )
    return from_vmamba(content["model"], source=path)


def load_released_zeromamba(path: str | Path) -> State:
    """The state of a `ZeroMamba` from a released one, {CUB,SUN,AWA2}_best{CZSL,GZSL}.pth.

    Raises:
        FileNotFoundError, ValueError: there is no such file, it would run code, or a key of it is not of
            ZeroMamba.
    """
    return from_released_zeromamba(_read_torch(path), source=path)


def from_vmamba(released: Mapping[str, Tensor], source: str | Path) -> State:
    """Rename a released VMamba state dict to that of `ImageNetClassifier`; `source` names it in errors."""
    return _rename(released, VMAMBA_KEYS, source)


def from_released_zeromamba(released: Mapping[str, Tensor], source: str | Path) -> State:
    """Rename a released ZeroMamba state dict to that of `ZeroMamba`, variant "released"."""
    if missing := ZEROMAMBA_KEYS.keys() - released.keys():
        raise ValueError(
            f"{source}: expected a released ZeroMamba checkpoint; {_listing(missing)} missing, "
            f"it has {_listing(released)}"
        )
    rules = {f"VisionMamba.{key}": _in_zeromamba(ours) for key, ours in VMAMBA_KEYS.items()} | ZEROMAMBA_KEYS
    return _rename(released, rules, source)


def pretrained(classifier: Mapping[str, Tensor], *, keep_head: bool) -> State:
    """The part of a `ZeroMamba` that an `ImageNetClassifier` starts: the backbone, GRL's norm and head.

    Args:
        classifier: state of an `ImageNetClassifier`, see `load_vmamba`.
        keep_head: True for the released variant, whose GRL keeps the 1000-way head; False drops it.
    """
    return {
        _in_zeromamba(name): tensor for name, tensor in classifier.items() if keep_head or not name.startswith("head.")
    }


def load_strict(
    module: nn.Module, state: Mapping[str, Tensor], source: str | Path, parts: tuple[str, ...] = ("",)
) -> None:
    """Load `state` into `module`, or into some `parts` of it, with nothing missing or left over.

    Args:
        module: is changed only if everything fits.
        state: names to tensors.
        source: where the state is from, for the error.
        parts: prefixes of the names that the state has to cover, e.g. ("backbone.", "grl.norm.").

    Raises:
        ValueError: keys are missing, left over, or of another shape; the message names them.
    """
    expected = {name: tensor for name, tensor in module.state_dict().items() if name.startswith(parts)}
    wrong = [
        f"{name} {tuple(state[name].shape)} instead of {tuple(tensor.shape)}"
        for name, tensor in expected.items()
        if name in state and state[name].shape != tensor.shape
    ]
    problems = {
        "missing": expected.keys() - state.keys(),
        "left over": state.keys() - expected.keys(),
        "of another shape": wrong,
    }
    if any(problems.values()):
        found = "; ".join(f"{what}: {_listing(names)}" for what, names in problems.items() if names)
        raise ValueError(f"{source}: the weights do not fit the model (another size, data set or variant?). {found}")
    module.load_state_dict(state, strict=False)


def save_safetensors(state: Mapping[str, Tensor], path: str | Path, metadata: Mapping[str, str] | None = None) -> None:
    """Write weights and text metadata so that `path` is always either the old file or the whole new one."""
    path = Path(path)
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}
    data = safetensors.torch.save(tensors, metadata=dict(metadata or {}))
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def load_safetensors(path: str | Path) -> tuple[State, dict[str, str]]:
    """Read weights, on the CPU, and metadata written by `save_safetensors`.

    Raises:
        FileNotFoundError, ValueError: there is no such file, or it is damaged or of another format.
    """
    try:
        with safetensors.safe_open(_existing(path), framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, dict(file.metadata() or {})  # noqa: SIM118
    except safetensors.SafetensorError as error:
        raise ValueError(f"{path}: not a whole safetensors file ({error}); save or copy it again") from error


def _read_torch(path: str | Path) -> dict[str, Any]:
    """Unpickle tensors and plain containers only; a file that would run code is refused."""
    with open(_existing(path), "rb") as file:
        try:
            content = torch.load(file, map_location="cpu", weights_only=True)
        except (pickle.UnpicklingError, RuntimeError, EOFError, OSError) as error:
            if culprit := re.search(r"GLOBAL (\S+)", str(error)):
                raise ValueError(
                    f"{path}: refused, reading it could run code ({culprit[1]}). Only tensors in plain dictionaries "
                    "are read. If you trust the file, write its weights alone: "
                    "torch.save({'model': torch.load(path, weights_only=False)['model']}, new_path)"
                ) from error
            raise ValueError(f"{path}: not a whole PyTorch checkpoint of plain tensors; get the file again") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path}: expected a dictionary of weights, got {type(content).__name__}")
    return content


def _in_zeromamba(name: str) -> str:
    """Where a parameter of `ImageNetClassifier` stands in `ZeroMamba`: GRL keeps the norm and the head."""
    return name if name.startswith("backbone.") else f"grl.{name}"


def _rename(released: Mapping[str, Tensor], rules: Mapping[str, str], source: str | Path) -> State:
    fields = {"{i}": r"(?P<i>\d+)", "{j}": r"(?P<j>\d+)", "{p}": r"(?P<p>weight|bias)"}
    patterns = []
    for key, ours in rules.items():
        pattern = re.escape(key).replace(r"\{", "{").replace(r"\}", "}")
        for field, expression in fields.items():
            pattern = pattern.replace(field, expression)
        patterns.append((re.compile(pattern), ours))

    state: State = {}
    unknown = []
    for key, tensor in released.items():
        matches = ((pattern.fullmatch(key), ours) for pattern, ours in patterns)
        name = next((ours.format(**match.groupdict()) for match, ours in matches if match), None)
        if name is None or not isinstance(tensor, Tensor):
            unknown.append(key)
        elif name in state:
            raise ValueError(f"{source}: two keys for {name}, the second is {key!r}; keep one")
        else:
            state[name] = _reshape(name, tensor, source)
    if unknown:
        raise ValueError(f"{source}: keys that the model has no place for: {_listing(unknown)}")
    return state


def _reshape(name: str, tensor: Tensor, source: str | Path) -> Tensor:
    """Undo the released layouts: linear weights as 1x1 convolutions, routes flattened into what follows."""
    if tensor.ndim == 4 and tensor.shape[2:] == (1, 1):  # VMamba has no 1x1 convolution of its own
        tensor = tensor.flatten(1)
    if tensor.ndim + 1 != PER_ROUTE.get(name.rpartition(".")[2]):
        return tensor
    if len(tensor) % ROUTES:
        raise ValueError(f"{source}: {name}: expected {ROUTES} routes, got shape {tuple(tensor.shape)}")
    return tensor.unflatten(0, (ROUTES, -1))


def _existing(path: str | Path) -> Path:
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such weights file")
    return path


def _listing(names: Iterable[str], most: int = 8) -> str:
    names = sorted(map(str, names))
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more if names else "nothing"
