"""The public operators as citizens of PyTorch, and their errors."""

import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest
import torch
from scans import DEVICE, ROUTE_SETS, expect, make, with_dt_given, with_gradients
from torch._dynamo.testing import CompileCounterWithBackend
from torch.utils.checkpoint import checkpoint
from torch.utils.flop_counter import FlopCounterMode

from zeromamba.kernels import CROSS_SCAN, Route, op, selective_scan, ss2d, triton_ss2d, vectorised
from zeromamba.kernels.inputs import Inputs
from zeromamba.kernels.op import _backward, _forward, choose, encode, scan

IMPLS = ("torch", "triton")
ONES = (  # arguments of `ss2d`, for a program of its own
    "import torch; one = lambda *s: torch.ones(s); B = one(1, 1, 1, 4, 1)\n"
    "i = (one(1, 1, 1, 1), B, one(4, 1, 1), one(4, 1), -one(4, 1, 1), B, B, one(4, 1))\n"
)


def test_the_kernels_can_be_lifted_out(tmp_path):
    """They need nothing else of the package."""
    shutil.copytree(Path(triton_ss2d.__file__).parent, tmp_path / "lifted")
    code = "import sys; import lifted, lifted.triton_ss2d, lifted.tuning; assert 'zeromamba' not in sys.modules"
    process = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert process.returncode == 0, process.stderr


@pytest.mark.parametrize("name", ["lifted", "zeromamba_kernels"])
def test_a_copy_beside_the_original_runs_its_own_code(tmp_path, name):
    """Operators are PyTorch's by name: those of a copy that someone changes must not replace ours, nor ours them."""
    shutil.copytree(Path(triton_ss2d.__file__).parent, tmp_path / name)
    code = ONES + (
        f"import zeromamba.kernels, {name} as lifted, {name}.vectorised\n"
        "changed = lifted.vectorised.forward\n"
        "lifted.vectorised.forward = lambda *a: (2 * changed(*a)[0], *changed(*a)[1:])\n"
        "ours, theirs = zeromamba.kernels.ss2d(*i), lifted.ss2d(*i)\n"
        "assert torch.equal(2 * ours, theirs), (ours, theirs)"
    )
    environment = {"PYTHONPATH": ":".join([str(tmp_path), *sys.path])}
    process = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert process.returncode == 0, process.stderr


def small(**options):
    return make(b=1, h=2, w=3, d=3, n=2, **options)


@pytest.mark.parametrize(("impl", "module"), [("torch", vectorised), ("triton", triton_ss2d)])
def test_an_implementation_asked_for_is_the_one_that_runs(impl, module, monkeypatch):
    called = []
    forward, backward = module.forward, module.backward
    monkeypatch.setattr(module, "forward", lambda *a: called.append("forward") or forward(*a))
    monkeypatch.setattr(module, "backward", lambda *a: called.append("backward") or backward(*a))
    with_gradients(lambda i: ss2d(*i, impl=impl), small(), torch.ones(1, 2, 3, 3, device=DEVICE))
    assert called == ["forward", "backward"]


def test_auto_is_torch_on_a_cpu_even_with_the_interpreter_and_triton_on_a_gpu():
    assert choose("auto", small()) == ("triton" if DEVICE == "cuda" else "torch")
    assert choose("auto", small(dtype=torch.float64)) == "torch"


def test_no_kernel_is_taken_for_a_card_that_it_was_not_compiled_for(monkeypatch):
    monkeypatch.setattr(torch.version, "hip", "6.4")
    assert choose("auto", small()) == "torch"
    with pytest.raises(ValueError, match="AMD's cards"):
        choose("triton", small())


def test_without_triton_auto_is_torch_and_who_asks_for_the_kernels_is_told(monkeypatch):
    monkeypatch.setattr(op, "HAS_TRITON", False)
    assert choose("auto", small()) == "torch"
    with pytest.raises(ValueError, match="impl='triton' cannot be used: the package triton is not installed"):
        choose("triton", small())


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # opcheck's, in torch 2.14
@pytest.mark.parametrize(("h", "n"), [(2, 2), (5, 1)])  # of one segment, and of several
@pytest.mark.parametrize("impl", IMPLS)
def test_opcheck(impl, h, n):
    inputs = [v.requires_grad_() for v in make(b=1, h=h, w=6, d=3, n=n)]
    torch.library.opcheck(_forward, (*inputs, encode(CROSS_SCAN), "zoh", True, impl))
    y, _, kept = _forward(*inputs, encode(CROSS_SCAN), "zoh", True, impl)
    detached = [v.detach() for v in (torch.ones_like(y), kept, *inputs)]
    torch.library.opcheck(_backward, (*detached, encode(CROSS_SCAN), "zoh", True, impl))


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("given", [False, True], ids=["low-rank dt", "dt given"])
def test_operations_are_counted_where_torch_counts_them(impl, given):
    inputs = with_dt_given(small()) if given else small()
    b, h, w, d, k, n, r = 1, 2, 3, 3, 4, 2, 2
    with FlopCounterMode(display=False) as counter:
        with_gradients(lambda i: ss2d(*i, impl=impl), inputs, torch.ones(b, h, w, d, device=DEVICE))
    forward = b * h * w * k * d * (9 * n + (0 if given else 2 * r))
    assert counter.get_total_flops() == 3 * forward


@pytest.mark.parametrize("impl", IMPLS)
def test_compile_without_a_graph_break_gives_the_same(impl):
    def function(i):
        return 2 * ss2d(*i, impl=impl)

    inputs, dy = small(), torch.ones(1, 2, 3, 3, device=DEVICE)
    backend = "inductor" if DEVICE == "cuda" else "aot_eager"  # inductor on a CPU wants a C++ compiler
    compiled = torch.compile(function, fullgraph=True, backend=backend)
    plain, traced = with_gradients(function, inputs, dy), with_gradients(compiled, inputs, dy)
    for name, value in plain.items():
        torch.testing.assert_close(traced[name], value)


def test_a_function_is_compiled_once_for_all_sizes_of_map():
    """Those that compile anew for each are given up after eight; how the map is cut is the vectorised path's own."""
    backend = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(partial(ss2d, impl="torch"), fullgraph=True, dynamic=True, backend=backend)
    for h in range(11, 21):  # no size being that of another axis, of which the compiler would make one symbol
        inputs, dy = make(b=1, h=h, w=h + 2, d=5, n=2), torch.ones(1, h, h + 2, 5, device=DEVICE)
        plain = with_gradients(lambda i: ss2d(*i, impl="torch"), inputs, dy)
        traced = with_gradients(lambda i: compiled(*i), inputs, dy)
        for name, value in plain.items():
            torch.testing.assert_close(traced[name], value)
    assert backend.frame_count == 1


@pytest.mark.parametrize("impl", IMPLS)
def test_an_exported_program_serves_maps_of_other_sizes(impl):
    """Also of more chunks than the one that was traced."""

    class Scan(torch.nn.Module):
        def forward(self, *inputs):
            return ss2d(*inputs, impl=impl)

    inputs, sizes = small(), dict.fromkeys((1, 2), torch.export.Dim.DYNAMIC)
    shapes = tuple(sizes if v.ndim > 3 else None for v in inputs)
    program = torch.export.export(Scan(), tuple(inputs), dynamic_shapes={"inputs": shapes})
    others = make(b=1, h=5, w=4, d=3, n=2)
    assert torch.equal(program.module()(*others), ss2d(*others, impl=impl))


@pytest.mark.parametrize("impl", ["reference", *IMPLS])
def test_dtypes_may_be_mixed(impl):
    given = small()
    mixed = given._replace(x=given.x.half(), dt_low=given.dt_low.bfloat16(), B=given.B.half(), C=given.C.bfloat16())
    exact = ss2d(*(v.double() for v in mixed), impl="reference")
    y, last = scan(mixed, CROSS_SCAN, "zoh", True, impl)
    assert (y.dtype, last.dtype) == (torch.float16, torch.float32)
    assert (y - exact).norm() <= 1.1 * 2**-11 * exact.norm()  # y's own rounding, and all that was before in float32


@pytest.mark.parametrize(
    ("x", "dt"), [(torch.float16, torch.float32), (torch.bfloat16, torch.float32), (torch.float16, torch.bfloat16)]
)
@pytest.mark.parametrize("given", [False, True], ids=["low-rank dt", "dt given"])
@pytest.mark.parametrize("impl", IMPLS)
def test_an_x_of_few_bits_takes_none_of_the_gradients_of_dt(impl, given, x, dt):
    """In float16, those of so small a dy are zero or have few bits left."""
    inputs = with_dt_given(small()) if given else small()
    inputs = inputs._replace(x=inputs.x.to(x), dt_low=inputs.dt_low.to(dt))
    dy = torch.full_like(inputs.x, 2.0**-20).double()
    expected = expect(inputs, CROSS_SCAN, "zoh", dy, softplus=True)
    for name in ("y", "x"):  # as few bits as x has
        del expected.results[name]
    expected.check(with_gradients(lambda i: ss2d(*i, impl=impl), inputs, dy))


@pytest.mark.filterwarnings("ignore:`torch.jit.script`")  # with which torch.func.jvp begins
@pytest.mark.parametrize("impl", IMPLS)
def test_a_tangent_is_refused_rather_than_lost(impl):
    inputs = small()

    def of_D(D, impl):
        return ss2d(*inputs._replace(D=D), impl=impl)

    one = torch.ones_like(inputs.D)
    _, tangent = torch.func.jvp(partial(of_D, impl="reference"), (inputs.D,), (one,))
    torch.testing.assert_close(tangent, 4 * inputs.x)
    with pytest.raises(NotImplementedError, match="no forward-mode differentiation; impl='reference' has"):
        torch.func.jvp(partial(of_D, impl=impl), (inputs.D,), (one,))


@pytest.mark.parametrize("impl", ["auto", "reference"])
def test_shapes_can_be_had_without_data(impl):
    y = ss2d(*(v.to("meta") for v in small()), impl=impl)
    assert (y.shape, y.device.type) == ((1, 2, 3, 3), "meta")


@pytest.mark.parametrize("impl", IMPLS)
def test_a_compiled_function_may_be_called_with_other_windows(impl):
    def function(i, window):
        return ss2d(*i, routes=(Route(window=window), Route(window=window, reverse=True)), impl=impl)

    inputs = make(b=1, h=3, w=4, k=2)
    compiled = torch.compile(function, fullgraph=True, backend="aot_eager")
    for window in (2, 3, 1):  # from the second on a number that the compiler does not know
        torch.testing.assert_close(compiled(inputs, window), function(inputs, window))


@pytest.mark.parametrize("impl", ["reference", *IMPLS])
def test_a_result_may_be_changed_in_place(impl):
    """As `y += x` does. What is a view made in an operator may not."""
    inputs = small()
    plain = with_gradients(lambda i: ss2d(*i, impl=impl) + i.x, inputs, inputs.x)
    in_place = with_gradients(lambda i: ss2d(*i, impl=impl).add_(i.x), inputs, inputs.x)
    assert all(torch.equal(plain[name], in_place[name]) for name in plain)
    u = inputs.x[0].requires_grad_()
    B = torch.ones(len(u), 1, u.shape[2], device=DEVICE)
    y, last = selective_scan(u, u, -torch.ones_like(u[0, :, :1]), B, B, return_last_state=True, impl=impl)
    y.mul_(2)
    last.mul_(2)
    y.sum().backward()


def test_gradient_checkpointing_gives_the_same_bits():
    inputs, dy = small(), torch.ones(1, 2, 3, 3, device=DEVICE)
    plain = with_gradients(lambda i: ss2d(*i), inputs, dy)
    again = with_gradients(lambda i: checkpoint(ss2d, *i, use_reentrant=False), inputs, dy)
    assert all(torch.equal(plain[name], again[name]) for name in plain)


@pytest.mark.parametrize("impl", ["reference", *IMPLS])
def test_autocast_does_not_reach_inside(impl):
    """Nor into a backward that is called under it: the reference's is autograd's own."""
    inputs, dy = small(), torch.ones(1, 2, 3, 3, device=DEVICE)
    outside = with_gradients(lambda i: ss2d(*i, impl=impl), inputs, dy)
    with torch.autocast(DEVICE, torch.bfloat16):
        inside = with_gradients(lambda i: ss2d(*i, impl=impl), inputs, dy)
    assert inside["y"].dtype == torch.float32
    for name in ("y",) if impl == "reference" else outside:
        assert torch.equal(inside[name], outside[name]), name


@pytest.mark.parametrize("impl", ["reference", *IMPLS])
def test_the_last_state_has_no_gradient(impl):
    y, last = scan(Inputs(*(v.requires_grad_() for v in small())), CROSS_SCAN, "zoh", True, impl)
    assert (y.requires_grad, last.requires_grad) == (True, False)


@pytest.mark.parametrize("impl", ["reference", *IMPLS])
def test_the_last_state_may_be_changed_in_place(impl):
    """It is none that the backward of y reads."""
    u = small().x[0].requires_grad_()
    B, C = (torch.ones(len(u), 1, u.shape[2], device=DEVICE, requires_grad=True) for _ in range(2))
    y, last = selective_scan(u, u, -torch.ones_like(u[0, :, :1]), B, C, return_last_state=True, impl=impl)
    last.mul_(2)
    y.sum().backward()


@pytest.mark.parametrize(
    ("impl", "dtype"), [("torch", torch.bfloat16), ("torch", torch.float64), ("triton", torch.bfloat16)]
)
def test_what_is_traced_has_the_dtypes_and_strides_of_what_runs(impl, dtype):
    """With channels first, as a convolution may leave them."""
    inputs = small(dtype=dtype)
    inputs = inputs._replace(x=inputs.x.permute(0, 3, 1, 2).contiguous().permute(0, 2, 3, 1))
    arguments = (*inputs, encode(CROSS_SCAN), "zoh", True, impl)
    torch.library.opcheck(_forward, arguments, test_utils="test_faketensor")
    y, _, kept = _forward(*arguments)
    torch.library.opcheck(_backward, (torch.ones_like(y), kept, *arguments), test_utils="test_faketensor")


@pytest.mark.parametrize("empty", ["b", "h", "w", "d", "n", "r"])
@pytest.mark.parametrize("impl", ["reference", *IMPLS])
def test_an_axis_of_no_extent_is_named(empty, impl):
    sizes = {"b": 1, "h": 2, "w": 3, "d": 3, "n": 2, "r": 2, "k": 4} | {empty: 0}
    inputs = [torch.zeros([sizes[axis] for axis in axes], device=DEVICE) for axes in op.AXES.values()]
    with pytest.raises(ValueError, match=f"sizes: expected at least 1 of every axis, got 0 for {empty}$"):
        ss2d(*inputs, impl=impl)


@pytest.mark.parametrize("name", ["dt_low", "A"])
def test_too_few_axes_are_named(name):
    with pytest.raises(ValueError, match=f"{name}: expected axes"):
        ss2d(*small()._replace(**{name: torch.zeros((), device=DEVICE)}))


@pytest.mark.parametrize("largest", [50.0, 300.0, 800.0])  # whose exponential float32 and float64 hold, one, and none
@pytest.mark.parametrize(("dtype", "rtol"), [(torch.float64, 1e-13), (torch.float32, 4e-6)])
@pytest.mark.parametrize("impl", ["reference", "torch"])
def test_softplus_is_right_to_the_rounding_of_its_dtype(impl, dtype, rtol, largest):
    z = torch.tensor([-30.0, -1.0, 0.0, 20.5, 30.0, largest], dtype=dtype, device=DEVICE, requires_grad=True)
    d, one, zero = len(z), z.new_ones(1, 1, 1, 1, 1), z.new_zeros(1, len(z))
    x = one[0].expand(1, 1, 1, d)  # y is dt, since A = D = 0
    y = ss2d(x, z.view(1, 1, 1, 1, d), None, zero, zero[..., None], one, one, zero, routes=(Route(),), impl=impl)
    exact = z.double().clamp(min=0) + (-z.double().abs()).exp().log1p()
    torch.testing.assert_close(y.flatten().double(), exact, rtol=rtol, atol=0)
    (gradient,) = torch.autograd.grad(y.sum(), z)
    torch.testing.assert_close(gradient.double(), z.double().sigmoid(), rtol=rtol, atol=0)


def test_every_thread_has_memory_of_its_own_to_write_over():
    like = torch.empty(5)
    with ThreadPoolExecutor(1) as pool:
        other = pool.submit(vectorised.SCRATCH, "h", like).result()
    assert other.data_ptr() != vectorised.SCRATCH("h", like).data_ptr()


@pytest.mark.parametrize("impl", IMPLS)
def test_a_gradient_of_any_strides(impl):
    """One number for all, as of a sum, and channels first."""
    inputs, routes = make(b=2, h=2, w=3, d=4, k=2), ROUTE_SETS["columns"]
    for dy in (torch.ones((), device=DEVICE).expand(2, 2, 3, 4), torch.randn(2, 4, 2, 3, device=DEVICE).movedim(1, 3)):
        given, copied = (
            with_gradients(lambda i: ss2d(*i, routes=routes, impl=impl), inputs, v) for v in (dy, dy.contiguous())
        )
        assert all(torch.equal(given[name], copied[name]) for name in given)


@pytest.mark.parametrize("impl", IMPLS)
def test_a_double_backward_raises(impl):
    x, *rest = small()
    x.requires_grad_()
    (dx,) = torch.autograd.grad(ss2d(x, *rest, impl=impl).square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="ss2d_backward"):
        dx.sum().backward()


def test_triton_on_a_cpu_without_the_interpreter_says_what_to_do():
    program = ONES + "from zeromamba.kernels import ss2d; ss2d(*i, impl='triton')"
    environment = {"PYTHONPATH": ":".join(sys.path), "PATH": "/usr/bin"}
    process = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=environment)
    assert "ValueError: impl='triton' cannot be used: the tensors are on cpu, expected a CUDA device" in process.stderr


def test_float64_in_triton_is_refused_by_name():
    inputs = small()
    with pytest.raises(ValueError, match=r"A is float64, the kernels compute in float32; impl='torch' can"):
        ss2d(*inputs._replace(A=inputs.A.double()), impl="triton")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x": (1, 2, 3)}, r"x: expected axes \(b, h, w, d\), got shape \(1, 2, 3\)"),
        ({"B": (1, 2, 3, 4, 5)}, r"B: expected shape \(b, h, w, k, n\) = \(1, 2, 3, 4, 2\), got \(1, 2, 3, 4, 5\)"),
        ({"dt_weight": (4, 3, 9)}, r"dt_weight: expected shape \(k, d, r\) = \(4, 3, 2\)"),
        ({"D": (3, 3)}, r"D: expected shape \(k, d\) = \(4, 3\), got \(3, 3\); .* k is the number of routes"),
    ],
)
def test_a_shape_that_does_not_fit_is_named(change, message):
    tensors = {name: torch.zeros(shape, device=DEVICE) for name, shape in change.items()}
    with pytest.raises(ValueError, match=message):
        ss2d(*small()._replace(**tensors))


def test_other_arguments_that_do_not_fit_are_named():
    inputs = small()
    with pytest.raises(ValueError, match=r"impl: expected one of .*'triton'.* got 'cuda'"):
        ss2d(*inputs, impl="cuda")
    with pytest.raises(ValueError, match=r"discretization: expected one of .* got 'bilinear'"):
        ss2d(*inputs, discretization="bilinear")
    for routes in ((), Route(), {Route()}, (Route() for _ in range(4)), (None,) * 4):
        with pytest.raises(ValueError, match="routes: expected one Route or more in a sequence"):
            ss2d(*inputs, routes=routes)
    with pytest.raises(ValueError, match=r"dt_low: expected shape .* k is the number of routes"):
        ss2d(*inputs, routes=(Route(),))
    with pytest.raises(TypeError, match=r"C: expected one of .* got torch\.int64"):
        ss2d(*inputs._replace(C=inputs.C.long()))
    with pytest.raises(ValueError, match=r"dt_low: expected shape \(b, h, w, k, d\) = \(1, 2, 3, 4, 3\)"):
        ss2d(*inputs._replace(dt_weight=None))
    for name in {*Inputs._fields} - {"dt_weight"}:
        with pytest.raises(TypeError, match=f"{name}: expected a tensor, got NoneType"):
            ss2d(*inputs._replace(**{name: None}))
    with pytest.raises(TypeError, match=r"A: expected a tensor, got ndarray"):
        ss2d(*inputs._replace(A=inputs.A.cpu().numpy()))
    with pytest.raises(ValueError, match=r"B: expected device .*, where x is, got meta"):
        ss2d(*inputs._replace(B=inputs.B.to("meta")))
    with pytest.raises(ValueError, match="sizes: expected at least 1 of every axis, got 0 for b"):
        ss2d(*make(b=0))


def test_a_tensor_that_is_not_dense_is_named():
    """Nested ones are how images of many sizes are batched, and all of the same raggedness would fit each other."""
    inputs = small()
    ragged = torch.nested.nested_tensor_from_jagged(inputs.x[0], torch.tensor([0, 1, 2], device=DEVICE))
    with pytest.raises(TypeError, match=r"^x: expected a dense tensor, got one that is nested"):
        ss2d(*inputs._replace(x=ragged))
    with pytest.raises(TypeError, match=r"^B: expected a dense tensor, got one that is torch\.sparse_coo"):
        ss2d(*inputs._replace(B=inputs.B.to_sparse()))
    with pytest.raises(TypeError, match=r"^u: expected a dense tensor, got one that is torch\.sparse_coo"):
        selective_scan(inputs.x[0].to_sparse(), *[inputs.x[0]] * 4)


@pytest.mark.gpu
def test_a_cuda_graph_replays_the_scan():
    inputs = make(b=2, h=7, w=7, d=192, r=6, dtype=torch.bfloat16)
    for _ in range(3):
        ss2d(*inputs)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        y = ss2d(*inputs)
    inputs.x.mul_(2)
    graph.replay()
    torch.testing.assert_close(y, ss2d(*inputs))
