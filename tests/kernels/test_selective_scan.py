"""The 1-D scan with Mamba's arguments, against its recurrence written out."""

import numpy as np
import pytest
import torch
from scans import DEVICE

from zeromamba.kernels import selective_scan

b, d, l, n = 2, 4, 19, 3
IMPLS = ("torch", "triton", "reference")


def arguments(groups=None, dtype=torch.float32):
    g = torch.Generator().manual_seed(0)

    def normal(*shape):
        return torch.randn(shape, generator=g).to(DEVICE, dtype)

    shape = (b, n, l) if groups is None else (b, groups, n, l)
    return {
        "u": normal(b, d, l), "delta": normal(b, d, l), "A": -normal(d, n).exp(), "B": normal(*shape),
        "C": normal(*shape), "D": normal(d), "z": normal(b, d, l), "delta_bias": normal(d),
    }  # fmt: skip


def written_out(u, delta, A, B, C, D=None, z=None, delta_bias=None, delta_softplus=False, return_last_state=False):
    """`selective_scan_fn` in float64, a token at a time."""
    u, delta, A, B, C, D, z, delta_bias = (
        None if v is None else v.double() for v in (u, delta, A, B, C, D, z, delta_bias)
    )
    B, C = (v[:, None] if v.ndim == 3 else v for v in (B, C))
    B, C = (v.repeat_interleave(d // v.shape[1], dim=1) for v in (B, C))  # (b, d, n, l)
    dt = delta if delta_bias is None else delta + delta_bias[:, None]
    dt = torch.nn.functional.softplus(dt) if delta_softplus else dt
    h, out = torch.zeros(b, d, n, dtype=torch.float64, device=u.device), []
    for t in range(l):
        h = (dt[:, :, t, None] * A).exp() * h + dt[:, :, t, None] * B[..., t] * u[:, :, t, None]
        out.append((h * C[..., t]).sum(-1))
    out = torch.stack(out, dim=-1)
    out = out if D is None else out + D[:, None] * u
    out = out if z is None else out * torch.nn.functional.silu(z)
    return (out, h) if return_last_state else out


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("groups", [None, 1, 2])
def test_every_argument_means_what_it_means_in_mamba(groups, impl):
    options = {"delta_softplus": True, "return_last_state": True}
    out, last = selective_scan(**arguments(groups), **options, impl=impl)
    expected, expected_last = written_out(**arguments(groups), **options)
    torch.testing.assert_close(out.double(), expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(last.double(), expected_last, rtol=1e-4, atol=1e-5)
    assert last.shape == (b, d, n)


@pytest.mark.parametrize("left_out", ["D", "z", "delta_bias"])
def test_what_is_optional_may_be_left_out(left_out):
    given = {name: v for name, v in arguments().items() if name != left_out}
    out = selective_scan(**given, delta_softplus=True)
    torch.testing.assert_close(out.double(), written_out(**given, delta_softplus=True), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("impl", ["torch", "triton"])
def test_without_softplus_delta_is_the_step_itself(impl):
    given = arguments()
    given["delta"] = given["delta"].abs() / 10
    del given["delta_bias"]
    torch.testing.assert_close(selective_scan(**given, impl=impl).double(), written_out(**given), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("impl", ["torch", "triton"])
def test_every_gradient(impl):
    ours = {name: v.requires_grad_() for name, v in arguments(2).items()}
    exact = {name: v.detach().double().requires_grad_() for name, v in ours.items()}
    selective_scan(**ours, delta_softplus=True, impl=impl).sum().backward()
    written_out(**exact, delta_softplus=True).sum().backward()
    for name, value in exact.items():
        error = (ours[name].grad - value.grad).norm() / value.grad.norm()
        assert error < 1e-5, name


def test_what_it_does_not_do_is_refused():
    given = arguments()
    for name in given:
        with pytest.raises(TypeError, match=f"^{name}: expected one of .* got torch.complex64"):
            selective_scan(**{**given, name: given[name].to(torch.complex64)})
        with pytest.raises(ValueError, match=f"^{'delta' if name == 'u' else name}: expected device .*, where u is"):
            selective_scan(**{**given, name: given[name].to("meta")})
        with pytest.raises(ValueError, match=f"^{name}: expected at least 1 of every axis"):
            selective_scan(**{**given, name: given[name][..., :0]})
    with pytest.raises(ValueError, match=r"B: expected groups that divide d = 4, got 3"):
        selective_scan(**arguments(3))
    with pytest.raises(ValueError, match=r"C: expected \(2, 2, 3, 19\), got \(2, 3, 19\)"):
        selective_scan(**{**arguments(2), "C": given["C"]})


@pytest.mark.parametrize("name", ["u", "delta", "A", "B", "C", "D", "z", "delta_bias"])
def test_an_argument_whose_shape_does_not_fit_is_named(name):
    given = arguments()
    wrong = {"less": given[name][..., :1], "more": given[name][None, None], "other": given[name].flip(0)[:1]}
    for value in wrong.values():
        if (name, value.ndim) == ("u", 3) or (name, len(value)) == ("A", d):
            continue  # it is the others that do not fit it
        with pytest.raises(ValueError, match=rf"^{name}: expected .* got \({value.shape[0]}"):
            selective_scan(**{**given, name: value})


@pytest.mark.skipif(DEVICE != "cpu", reason="it would take 6 GiB of a GPU's memory; here only three pages are touched")
def test_channels_that_lie_more_than_2_to_the_31_apart_are_found():
    l, far = 20, 1 << 30
    u, delta, B, C = (torch.randn(1, 3, l).bfloat16() for _ in range(4))
    apart = torch.from_numpy(np.empty(3 * far, np.int16)).view(torch.bfloat16).as_strided((1, 3, l), (3 * far, far, 1))
    apart.copy_(u)
    others = (delta.abs(), -torch.ones(3, 1), B[:, :1], C[:, :1])
    near, found = (selective_scan(v, *others, impl="triton") for v in (u, apart))
    assert torch.equal(found, near)


@pytest.mark.parametrize("impl", ["torch", "triton"])
def test_the_gate_is_computed_in_float32(impl):
    given = arguments(dtype=torch.bfloat16)
    y = selective_scan(**{**given, "z": None}, delta_softplus=True, impl=impl)
    out = selective_scan(**given, delta_softplus=True, impl=impl)
    assert torch.equal(out, (y.float() * torch.nn.functional.silu(given["z"].float())).bfloat16())


@pytest.mark.parametrize("impl", IMPLS)
def test_zero_order_hold_is_had_on_request(impl):
    """Bbar = (exp(dt A) - 1) / A B is Euler's of an input that is as much larger."""
    given = {name: v for name, v in arguments().items() if name not in ("D", "z", "delta_bias")}
    given |= {"delta": given["delta"].abs() / 10, "A": -torch.ones(4, 3, device=DEVICE)}
    larger = given | {"u": given["u"] * -torch.expm1(-given["delta"]) / given["delta"]}
    out = selective_scan(**given, discretization="zoh", impl=impl)
    torch.testing.assert_close(out.double(), written_out(**larger), rtol=1e-4, atol=1e-5)
