"""The kernels as a card would run them, as far as that can be told without one: their PTX, run on NumPy by ptx.py.

What the interpreter cannot show: the products of tensor cores, what moves through shared memory and between threads,
blocks of channels that are full, and that no thread reads what another one may not have written yet.
"""

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
import triton
import triton.language as tl
from compiling import run_compiled
from ptx import Card, Race
from scans import Expected, expect, make, poison, with_dt_given, with_gradients

from benchmarks.ahead_of_time import BOTH_WAYS, SPECIAL, STAGES, Scan
from benchmarks.host import no_card
from zeromamba.kernels import triton_ss2d
from zeromamba.kernels.cut import Config
from zeromamba.kernels.op import scan
from zeromamba.machine import CORES

pytestmark = pytest.mark.skipif(
    triton.__version__.split(".")[:2] != ["3", "9"], reason="ptx.py knows the instructions that Triton 3.9 writes"
)

#: All that benchmarks/ahead_of_time.py compiles.
CASES = {
    f"stage {stage} {str(dtype).removeprefix('torch.')}": Scan(stage, dtype)
    for stage in STAGES
    for dtype in (torch.bfloat16, torch.float32)
} | {**SPECIAL, "float16": Scan(dtype=torch.float16)}
EVERY_CUT = ("stage 1 bfloat16", "stage 1 float32")  # of two images, and for sm_80, too


def agrees(case):
    """Maps of 3 chunks, of which 2 are a segment, or where every cut is asked for each its own or all one, too."""
    of, every_cut = CASES[case], case in EVERY_CUT
    _, d, r = STAGES[of.stage]
    d, k = of.channels or d, len(of.routes)
    inputs = make(b=1 + every_cut, h=7, w=6, d=d, n=of.n, r=r, k=k, dtype=of.dtype)
    if of.dt_given:
        inputs = with_dt_given(inputs)
    dy = torch.randn(inputs.x.shape, generator=torch.Generator().manual_seed(1)).to(of.dtype)
    choices = (of.routes, of.discretization, not of.dt_given)
    expected = expect(inputs, *choices[:2], dy.double(), softplus=not of.dt_given, rounded=True)
    lanes = len(inputs.x) * k * Config().blocks_d(d)
    with pytest.MonkeyPatch.context() as patch:
        poison(patch)
        for sm in (90, 80) if every_cut else (90,):
            for segments in (2, 3, 1) if every_cut else (2,):
                config = Config(programs=segments * lanes)
                patch.setattr(triton_ss2d, "config_for", lambda device, config=config: config)
                with no_card(Card(sm)):
                    got = with_gradients(lambda i: scan(i, *choices, "triton")[0], inputs, dy)
                expected.check(got)


@pytest.fixture(scope="module")
def agreements(compiled, request):
    """All cases that are wanted, each in a process of its own, as many at once as there are cores."""
    wanted = [item.callspec.params["case"] for item in request.session.items if "agreements" in item.fixturenames]
    with ThreadPoolExecutor(CORES) as pool:
        yield {case: pool.submit(run_compiled, f"test_ptx.agrees({case!r})") for case in wanted}


@pytest.mark.parametrize("case", CASES)
def test_what_is_compiled_computes_the_scan(case, agreements):
    agreements[case].result()


def odd_maps_are_read_as_they_lie():
    """Where images or routes begin on odd elements, two numbers cannot be read at once; nor where d is odd."""

    def images_apart(v):
        size = v[0].numel() + 1
        return v.new_empty(len(v) * size).as_strided(v.shape, (size, *v[0].contiguous().stride())).copy_(v)

    def routes_apart(v):
        return torch.nn.functional.pad(v, (0, 1))[..., :-1]

    for d, r, k, name, lay in (
        (64, 3, 1, "x", images_apart),
        (33, 3, 1, "x", images_apart),
        (64, 2, 2, "dt_low", images_apart),
        (64, 2, 2, "dt_low", routes_apart),
    ):
        inputs = make(b=2, h=3, w=6, d=d, r=r, k=k)
        expected = expect(inputs, BOTH_WAYS[:k], "euler", inputs.x.double(), rounded=True)
        inputs = inputs._replace(**{name: lay(getattr(inputs, name))})
        with no_card(Card()):
            got, _ = scan(inputs, BOTH_WAYS[:k], "euler", True, "triton")
        Expected({"y": expected.results["y"]}, expected.budgets).check({"y": got})


def test_odd_maps_are_read_as_they_lie():
    run_compiled("test_ptx.odd_maps_are_read_as_they_lie()")


@triton.jit
def exchange(p_ptr, q_ptr, BARRIER: tl.constexpr, BEYOND: tl.constexpr):
    """Threads store numbers, and each loads another's."""
    i = tl.arange(0, 32)
    tl.store(p_ptr + i, i)
    if BARRIER:
        tl.debug_barrier()
    tl.store(q_ptr + i + BEYOND, tl.load(p_ptr + 31 - i))


def finds_races():
    p, q = (torch.zeros(32, dtype=torch.int32) for _ in range(2))
    options = {"num_warps": 1}
    with no_card(Card()):
        exchange[(1,)](p, q, True, 0, **options)
        assert torch.equal(q, torch.arange(31, -1, -1, dtype=torch.int32))
        with pytest.raises(Race, match="read after a write"):
            exchange[(1,)](p, q, False, 0, **options)
        with pytest.raises(Race, match="several threads write at once"):
            exchange[(2,)](p, q, True, 0, **options)
        with pytest.raises(AssertionError, match="beyond all tensors, of 3 threads"):
            exchange[(1,)](p, q, True, 3, **options)


def test_races_are_found():
    run_compiled("test_ptx.finds_races()")
