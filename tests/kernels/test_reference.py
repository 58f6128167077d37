"""The reference against what eq. (1) to (4) say by other means, and its gradients against finite differences."""

import pytest
import torch
from scans import inputs64, make

from zeromamba.kernels import CROSS_SCAN, Route, reference
from zeromamba.kernels.inputs import Inputs


def constant(discretization, l=9, n=3, a=-0.7):
    """A time-invariant system along a line, and its y by the convolution of eq. (4)."""
    torch.manual_seed(0)
    u, B, C = torch.randn(l).double(), torch.randn(n).double(), torch.randn(n).double()
    A, dt = a * torch.arange(1, n + 1).double(), torch.tensor(0.3).double()
    Abar = torch.exp(dt * A)
    Bbar = torch.linalg.solve(torch.diag(A), (Abar - 1) * B) if discretization == "zoh" else dt * B
    kernel = torch.stack([(C * Abar**t * Bbar).sum() for t in range(l)])
    y = torch.stack([(kernel[: t + 1].flip(0) * u[: t + 1]).sum() for t in range(l)])
    line = (1, 1, l, 1)
    inputs = Inputs(
        x=u.view(1, 1, l, 1),
        dt_low=dt.expand(1, 1, l, 1, 1),
        dt_weight=None,
        dt_bias=torch.zeros(1, 1).double(),
        A=A.view(1, 1, n),
        B=B.expand(*line, n),
        C=C.expand(*line, n),
        D=torch.full((1, 1), 0.5).double(),
    )
    return inputs, y + 0.5 * u


@pytest.mark.parametrize("discretization", ["zoh", "euler"])
def test_a_time_invariant_scan_is_the_convolution_of_equation_4(discretization):
    inputs, y = constant(discretization)
    got, _ = reference.ss2d(inputs, (Route(),), discretization, softplus=False)
    torch.testing.assert_close(got.flatten(), y, rtol=1e-12, atol=1e-14)


def test_zoh_is_the_exact_solution_of_equation_1_for_an_input_held_between_steps():
    """Many small Euler steps of the differential equation itself converge to it; one step of Euler does not."""
    a, b, dt, u, steps = -1.3, 0.8, 0.9, 2.0, 200_000
    h = 0.0
    for _ in range(steps):
        h += dt / steps * (a * h + b * u)
    Abar, phi = reference.discretize(torch.tensor(dt).double(), torch.tensor(a).double(), "zoh")
    assert (phi * b * u).item() == pytest.approx(h, rel=1e-5)
    assert Abar.item() == pytest.approx(torch.tensor(a * dt).exp().item(), rel=1e-6)


def test_zoh_tends_to_dt_where_A_is_zero_and_so_does_its_gradient():
    dt = torch.tensor([0.2, 3.0]).double().requires_grad_()
    A = torch.zeros(2).double().requires_grad_()
    _, phi = reference.discretize(dt, A, "zoh")
    assert torch.equal(phi, dt)
    phi.sum().backward()
    torch.testing.assert_close(dt.grad, torch.ones(2).double())
    torch.testing.assert_close(A.grad, dt.detach() ** 2 / 2)


@pytest.mark.parametrize("discretization", ["zoh", "euler"])
def test_gradients_of_the_reference_are_right(discretization):
    inputs = inputs64(make(b=1, h=2, w=3, d=2, n=2))
    leaves = [v.requires_grad_() for v in inputs]
    assert torch.autograd.gradcheck(lambda *v: reference.ss2d(Inputs(*v), CROSS_SCAN, discretization, True)[0], leaves)


def test_routes_read_the_map_and_put_it_back():
    """With A very negative nothing is remembered: every route gives each token its own B C dt x."""
    inputs = inputs64(make(b=1, h=3, w=4, d=2))
    inputs = inputs._replace(A=torch.full_like(inputs.A, -1e6))
    y, _ = reference.ss2d(inputs, CROSS_SCAN, "euler", True)
    z = torch.einsum("bhwkr,kdr->bhwkd", inputs.dt_low, inputs.dt_weight) + inputs.dt_bias
    own = torch.nn.functional.softplus(z) * (inputs.B * inputs.C).sum(-1, keepdim=True) + inputs.D
    torch.testing.assert_close(y, (own * inputs.x[:, :, :, None]).sum(3))


def test_the_last_state_is_that_after_the_last_token_of_each_route():
    inputs = inputs64(make(b=1, h=1, w=2, d=1, n=2, k=1))
    y, last = reference.ss2d(inputs, (Route(),), "euler", True)
    first, _ = reference.ss2d(Inputs(*(v[:, :, :1] if v.ndim > 3 else v for v in inputs)), (Route(),), "euler", True)
    assert last.shape == (1, 1, 1, 2)
    torch.testing.assert_close(y[0, 0, 0], first[0, 0, 0])
    torch.testing.assert_close(
        y[0, 0, 1], (inputs.C[0, 0, 1, 0] * last[0, 0]).sum(-1) + inputs.D[0] * inputs.x[0, 0, 1]
    )
