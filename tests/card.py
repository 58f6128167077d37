"""A device that is not there, to run commands on: what a GPU would refuse, it refuses.

    PYTHONPATH=. python tests/card.py 'train --device card' 'zeromamba.predict model.safetensors a.jpg --device card'

Its tensors lie in memory and are computed on there, so results are a CPU's. But none of them meets a tensor of the CPU,
unless PyTorch lets a GPU's do so: a single number, an index, a copy from one to the other.
"""

import contextlib
import importlib
import shlex
import sys

import torch
from torch import Tensor
from torch.utils import backend_registration
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

MEET = {"copy_", "to", "_to_copy", "index", "index_put", "index_put_"}  # operators that take tensors of both


class OnCard(Tensor):
    """A tensor of the card, around the one in memory."""

    @staticmethod
    def __new__(cls, held):
        kind = {"dtype": held.dtype, "device": torch.device("card", 0)}
        tensor = Tensor._make_wrapper_subclass(cls, held.shape, held.stride(), held.storage_offset(), **kind)
        tensor.held = held
        return tensor

    @classmethod
    def __torch_dispatch__(cls, operator, types, args=(), kwargs=None):
        return call(operator, args, kwargs or {})

    def __reduce_ex__(self, protocol):
        return self.cpu().__reduce_ex__(protocol)

    def tolist(self):
        return self.cpu().tolist()


class MadeOnCard(TorchDispatchMode):
    """So that what makes a tensor from none is seen, too."""

    def __torch_dispatch__(self, operator, types, args=(), kwargs=None):
        return call(operator, args, kwargs or {})


def call(operator, args, kwargs):
    """The operator on what the tensors hold; its results are on the card where its arguments are, or as it is told."""
    name, leaves = operator._schema.name.removeprefix("aten::"), tree_leaves((args, kwargs))
    tensors = [v for v in leaves if isinstance(v, Tensor)]
    on_card = [v for v in tensors if isinstance(v, OnCard)]
    if on_card and name not in MEET and any(v.ndim for v in tensors if not isinstance(v, OnCard)):
        raise RuntimeError(f"{name}: one tensor is on the card, another on the CPU")
    told = next((v.type for v in leaves if isinstance(v, torch.device)), "card" if on_card else "cpu")
    place = ("card" if isinstance(args[0], OnCard) else "cpu") if name == "copy_" else told
    given = {id(v.held): v for v in on_card}

    def unwrap(v):
        if isinstance(v, torch.device):
            return torch.device("cpu")
        return v.held if isinstance(v, OnCard) else v

    def wrap(v):
        if place == "cpu" or not isinstance(v, Tensor):
            return v
        return given[id(v)] if id(v) in given else OnCard(v)  # what was written to stays the tensor that it was

    args, kwargs = tree_map(unwrap, (args, kwargs))
    return tree_map(wrap, operator(*args, **kwargs))


class Module(backend_registration._DummyBackendModule):
    """What torch.card would be."""

    def get_amp_supported_dtype(self):
        return [torch.bfloat16]


def main():
    # before the commands' modules are imported, which decorate with it: views of a card's tensors cannot be made in it
    torch.inference_mode = lambda mode=True: torch.no_grad() if mode else contextlib.nullcontext()
    backend_registration._setup_privateuseone_for_python_backend("card", Module())
    torch.__future__.set_swap_module_params_on_conversion(True)  # other tensors, not other contents of the same
    torch._C._set_only_lift_cpu_tensors(True)  # torch.tensor(..., device=) makes one in memory, then moves it
    with MadeOnCard():
        for line in sys.argv[1:]:
            module, *arguments = shlex.split(line)
            importlib.import_module(module).main(arguments)


if __name__ == "__main__":
    main()
