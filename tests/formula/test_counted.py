"""Which steps of a sum over time count: masks, burn-in, the end of a sequence."""

import pytest
import torch
from torch import nn

from tests.formula.test_iterations import agree
from worldformula import KL, Deterministic, E, Mean, Normal, PoE, Sum, log
from worldformula.errors import FormulaError, ShapeError, TimeError

B, T, H = 3, 6, 2


@pytest.fixture
def model():
    torch.manual_seed(0)
    core = Deterministic("h_t = f(h_{t-1},x_t)", _Core(), shape=H)
    return core, Normal("p(x_t|h_{t-1})", nn.Linear(H, 2), shape=1)


class _Core(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(H + 1, H)

    def forward(self, h, x):
        return self.linear(torch.cat((h, x), -1)).tanh()


def by_hand(model, x):
    """log p(x_t|h_{t-1}) of every step, [B, T]."""
    core, p = model
    h, found = torch.zeros(len(x), H), []
    for t in range(x.shape[1]):
        found.append(p.log_prob(x=x[:, t], h=h))
        h = core.net(h, x[:, t])
    return torch.stack(found, 1)


MASK = torch.tensor([[1, 1, 1, 1, 0, 0], [1, 0, 1, 0, 1, 0], [0, 0, 0, 0, 0, 0]]).bool()
LAST = torch.tensor([[0, 0, 1, 0, 1, 0], [0, 0, 0, 0, 0, 0], [1, 0, 0, 0, 0, 0]]).bool()
ALIVE = torch.tensor([[1, 1, 1, 0, 0, 0], [1, 1, 1, 1, 1, 1], [1, 0, 0, 0, 0, 0]]).bool()


@pytest.mark.parametrize("over", [Sum, Mean])
@pytest.mark.parametrize(
    ("settings", "flags", "keep"),
    [
        ({"mask": "valid"}, {"valid": MASK}, MASK),
        ({"burn_in": 2}, {}, torch.arange(T).expand(B, T) >= 2),
        ({"until": "last"}, {"last": LAST}, ALIVE),
        ({"mask": "valid", "burn_in": 1}, {"valid": MASK}, MASK & (torch.arange(T) >= 1)),
        ({"mask": "valid", "until": "last"}, {"valid": MASK, "last": LAST}, MASK & ALIVE),
    ],
)
def test_the_steps_that_count(model, over, settings, flags, keep):
    x = torch.randn(B, T, 1)
    loss = over("t", E(model[0], log(model[1])), **settings)
    each = torch.where(keep, by_hand(model, x), 0.0)
    expected = each.sum(1) if over is Sum else each.sum(1) / keep.sum(1).clamp_min(1)
    out = agree(loss, x=x, **flags)
    torch.testing.assert_close(out.value, expected)
    assert all(f"{key}={value}" in repr(loss) for key, value in settings.items())


def test_a_nan_in_a_step_that_does_not_count_stays_out_of_the_value(model):
    x = torch.randn(B, T, 1)
    x[:, -1] = torch.nan
    mask = torch.ones(B, T)
    mask[:, -1] = 0
    loss = Sum("t", E(model[0], log(model[1])), mask="valid")
    assert loss(x=x, valid=mask).value.isfinite().all()


@pytest.mark.parametrize("begun_first", [True, False])
def test_a_burn_in_is_that_of_its_own_sum(model, begun_first):
    """Beside a sum that begins with something, and leaves out its first step, another counts all steps as they are."""
    core, p = model
    begun = Sum("t", E(core, log(p)), initial={"h": torch.ones(H)}, burn_in=1)
    whole = Sum("t", log(Normal("p(x_t)", shape=1)))
    x = torch.randn(B, T, 1)
    out = agree(begun + whole if begun_first else whole + begun, x=x)
    by_itself = torch.distributions.Normal(0.0, 1.0).log_prob(x).sum((1, 2))
    torch.testing.assert_close(out.value, begun(x=x).value + by_itself)


def test_sums_of_unlike_steps_over_one_carry_are_refused(model):
    """What one of them leaves out may be anything, and counts in the other."""
    core, p = model
    loss = Sum("t", E(core, log(p)), mask="valid") + Sum("t", E(core, log(p)))
    with pytest.raises(TimeError, match=r"two sums over t in which other steps count.*\n.*Value\('valid_t'\)"):
        loss(x=torch.randn(B, T, 1), valid=MASK.float())


@pytest.mark.parametrize("settings", [{"burn_in": -1}, {"burn_in": True}, {"mask": ""}, {"until": 3}])
def test_settings_that_cannot_be(model, settings):
    with pytest.raises(FormulaError, match=r"burn_in=|mask=|until="):
        Sum("t", E(model[0], log(model[1])), **settings)


@pytest.mark.parametrize("rows", [2, 3])
def test_pictures_whose_event_axes_nobody_declares_are_filled_row_by_row(rows):
    """As many rows as a picture has columns: nothing is aligned from the right."""
    prior = Normal("p(z)", shape=2)
    encode = Normal("q(z|x)", lambda x: torch.cat((x.mean((2, 3)), x.mean((2, 3)) * 0), -1), shape=2)
    x, has = torch.randn(rows, 2, 3, 3), torch.arange(rows) % 2 == 0
    x[~has] = torch.nan
    value = KL(PoE([prior, encode]), prior)(x=x, present={"x": has}).value
    loc, precision = x[has].mean((2, 3)), 1 + torch.tensor(2.0).log() ** -2
    mean, var = loc * torch.tensor(2.0).log() ** -2 / precision, 1 / precision
    torch.testing.assert_close(value[has], 0.5 * (var + mean**2 - 1 - var.log()).sum(-1))
    torch.testing.assert_close(value[~has], torch.zeros(int((~has).sum())))


def test_a_series_read_whole_and_step_by_step_does_not_lack_rows():
    pooled = Normal("q(z|a_{1:T})", lambda a: a.mean(1), shape=2, scale=1.0)
    step = Normal("p(a_t|z)", lambda z: z, shape=2, scale=1.0)
    loss = E(pooled, Sum("t", log(step)))
    with pytest.raises(FormulaError, match="give the whole series a name of its own"):
        loss(a=torch.randn(3, 4, 2), present={"a": torch.ones(3, 4)})


def test_flags_of_steps_are_told_with_all_shapes():
    loss = Sum("t", log(Normal("p(x_t)", shape=2)))
    with pytest.raises(ShapeError) as caught:
        loss(x=torch.randn(3, 4, 2), present={"x": torch.ones(3)})
    assert str(caught.value) == (
        "present: expected one flag for each row of x and each of its steps\n"
        "  variable | its shape | flags  | got\n"
        "  x        | [3, 4, 2] | [3, 4] | [3]"
    )
