"""Weights on disk: released checkpoints under our names, and safetensors of our own.

Strictly: a key that no rule knows, a missing one, or a tensor of another shape is an error naming it.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from .files import write_bytes
from .memory import lacks_memory
from .messages import listing

State = dict[str, Tensor]


@dataclass(frozen=True)
class Released:
    """A checkpoint format that someone else released, and the way to our names."""

    model: str  # what it holds, for messages
    keys: Mapping[str, str]  # released name -> ours; {i} and {j} are numbers, {p} is weight or bias
    under: str | None = None  # the key of the file's dictionary under which the weights stand
    layout: Callable[[str, Tensor], Tensor] = lambda name, tensor: tensor  # by our name: released layout -> ours

    def load(self, path: Path) -> State:
        """Read a released file, PyTorch's or safetensors, as a state under our names.

        Raises:
            FileNotFoundError, ValueError: there is no such file, it would run code, it holds no weights where
                they are expected, or a key of it is not of this model.
        """
        content: dict[str, Any] = load_safetensors(path)[0] if path.suffix == ".safetensors" else read_torch(path)
        if self.under is None:
            return self.rename(content, source=path)
        if not isinstance(content.get(self.under), dict):
            raise ValueError(
                f"{path}: expected a {self.model} checkpoint with its weights under {self.under!r}; "
                f"it has {listing(sorted(map(str, content)))}"
            )
        return self.rename(content[self.under], source=path)

    def rename(self, released: Mapping[Any, Any], source: str | Path) -> State:
        """Rename a released state dict to ours; `source` names it in errors.

        Raises:
            ValueError: a key is not of this model, or not of a tensor, two are the same parameter, or a layout is
                impossible.
        """
        patterns = [(_pattern(key), ours) for key, ours in self.keys.items()]
        state: State = {}
        unknown = []
        for key, tensor in released.items():
            matches = ((pattern.fullmatch(str(key)), ours) for pattern, ours in patterns)
            name = next((ours.format(**match.groupdict()) for match, ours in matches if match), None)
            if name is None or not isinstance(tensor, Tensor):
                unknown.append(str(key))
            elif name in state:
                raise ValueError(f"{source}: two keys for {name}, the second is {key!r}; keep one")
            else:
                try:
                    state[name] = self.layout(name, tensor)
                except ValueError as error:
                    raise ValueError(f"{source}: {name}: {error}") from error
        if unknown:
            raise ValueError(f"{source}: keys that {self.model} has no place for: {listing(sorted(unknown))}")
        return state


def load_strict(
    module: nn.Module, state: Mapping[str, Tensor], source: str | Path, parts: tuple[str, ...] = ("",)
) -> None:
    """Load `state` into `module`, or into some `parts` of it, with nothing missing, left over or not a number.

    Args:
        module: is changed only if everything fits.
        state: names to tensors.
        source: where the state is from, for the error.
        parts: prefixes of the names that the state has to cover, e.g. ("backbone.", "grl.norm.").

    Raises:
        ValueError: keys are missing, left over, of another shape, or not of finite numbers; the message names them.
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
        "not finite": [name for name in expected if name in state and not state[name].isfinite().all()],
    }
    if any(problems.values()):
        found = "; ".join(f"{what}: {listing(sorted(names))}" for what, names in problems.items() if names)
        raise ValueError(f"{source}: the weights do not fit the model (another size, data set or variant?). {found}")
    module.load_state_dict(state, strict=False)


def save_safetensors(state: Mapping[str, Tensor], path: Path, metadata: Mapping[str, str] | None = None) -> None:
    """Write weights and text metadata so that `path` is always either the old file or the whole new one."""
    tensors = {name: tensor.cpu().contiguous() for name, tensor in state.items()}
    write_bytes(path, safetensors.torch.save(tensors, metadata=dict(metadata or {})))


def load_safetensors(path: Path) -> tuple[State, dict[str, str]]:
    """Read weights, on the CPU, and metadata written by `save_safetensors`.

    Raises:
        FileNotFoundError, ValueError: there is no such file, or it is damaged or of another format.
    """
    try:
        with safetensors.safe_open(_existing(path), framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, dict(file.metadata() or {})  # noqa: SIM118
    except safetensors.SafetensorError as error:
        raise ValueError(f"{path}: not a whole safetensors file ({error}); save or copy it again") from error


def read_torch(path: Path) -> dict[str, Any]:
    """Unpickle tensors and plain containers only.

    Raises:
        FileNotFoundError, ValueError: there is no such file, it would run code, or it is damaged.
    """
    with _existing(path).open("rb") as file:
        try:
            content = torch.load(file, map_location="cpu", weights_only=True)
        except Exception as error:  # whatever a file of something else makes an unpickler do
            if lacks_memory(error):
                raise
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


def _pattern(key: str) -> re.Pattern[str]:
    fields = {"{i}": r"(?P<i>\d+)", "{j}": r"(?P<j>\d+)", "{p}": r"(?P<p>weight|bias)"}
    pattern = re.escape(key).replace(r"\{", "{").replace(r"\}", "}")
    for field, expression in fields.items():
        pattern = pattern.replace(field, expression)
    return re.compile(pattern)


def _existing(path: Path) -> Path:
    if path.is_dir():
        inside = sorted(path.rglob("*.safetensors"))
        raise ValueError(f"{path} is a folder: give a file of weights" + "".join(f", as {file}" for file in inside[:1]))
    if not path.is_file():
        beside = sorted(file.name for file in path.parent.glob("*.safetensors"))
        raise FileNotFoundError(f"{path}: no such weights file" + (f", beside it {listing(beside)}" if beside else ""))
    return path
