"""Bonuses of steps, against NumPy: losses, gradients, the bonus of a sequence, its running size."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from worldformula.errors import ConfigError, FormulaError, MissingInputError, ShapeError
from worldformula.learners.curiosity import ICM, CuriositySettings, Curious, Disagreement, curious_by
from worldformula.planner import ActionSet
from worldformula.world import State

B, T, H, Z, A, E_ = 2, 4, 3, (2, 2), 2, 5
FIRST = torch.tensor([[True, False, False, False], [False, False, True, False]])
COUNTS = np.array([1, 1, 1, 1, 0, 1.0])  # the step into row 2 of the second sequence joins two episodes


def states(**more: Tensor) -> dict[str, Tensor]:
    torch.manual_seed(3)
    made = {"h": torch.randn(B, T, H), "z": torch.rand(B, T, *Z), "a": torch.randn(B, T, A), "e": torch.randn(B, T, E_)}
    return {k: v.double() for k, v in (made | more).items()}


class Side(nn.Module):
    """One linear map of everything it reads, side by side, so that NumPy is two lines."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.linear = nn.Linear(inputs, outputs)

    def forward(self, *given: Tensor) -> Tensor:
        found: Tensor = self.linear(torch.cat([x.flatten(1) for x in given], -1))
        return found

    def by_hand(self, *given: np.ndarray) -> np.ndarray:
        weight, bias = self.linear.weight.detach().numpy(), self.linear.bias.detach().numpy()
        return np.concatenate([x.reshape(len(x), -1) for x in given], -1) @ weight.T + bias


def linear(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("disagreement", "icm"):
        path = f"worldformula.learners.curiosity.{name}.MLP"
        monkeypatch.setattr(path, lambda inputs, outputs, units, layers: Side(inputs, outputs))


def steps(name: str, given: dict[str, Tensor]) -> tuple[np.ndarray, np.ndarray]:
    x = given[name].numpy()
    return x[:, :-1].reshape(B * (T - 1), -1), x[:, 1:].reshape(B * (T - 1), -1)


def ensemble(monkeypatch: pytest.MonkeyPatch, rate: float = 0.0, **target: object) -> Disagreement:
    linear(monkeypatch)
    torch.manual_seed(0)
    made = Disagreement({"h": (H,), "z": Z}, {"a": A}, target.get("target", ("e", (E_,))), members=3, rate=rate)  # type: ignore[arg-type]
    return made.double()


def test_the_members_minimise_squared_errors_of_steps_within_episodes(monkeypatch: pytest.MonkeyPatch) -> None:
    own, given = ensemble(monkeypatch), states()
    out = own.loss(**own.data(given, FIRST))
    (h, _), (z, _), (a, _), (_, e) = (steps(name, given) for name in "hzae")
    missed = sum(0.5 * (e - net.by_hand(h, z, a)) ** 2 + 0.5 * math.log(2 * math.pi) for net in own.members).sum(-1)
    assert out.value.item() == pytest.approx((COUNTS * missed).mean(), rel=1e-9)
    out.value.backward()
    read = np.concatenate([h, z, a], -1)
    for net in own.members:
        gradient = (COUNTS[:, None] * (net.by_hand(h, z, a) - e)).T @ read / len(read)
        np.testing.assert_allclose(net.linear.weight.grad, gradient, rtol=1e-9)


def test_the_next_latent_may_be_the_target(monkeypatch: pytest.MonkeyPatch) -> None:
    own, given = ensemble(monkeypatch, target=("z", Z)), states()
    (h, _), (z, later), (a, _) = (steps(name, given) for name in "hza")
    missed = sum(0.5 * (later - net.by_hand(h, z, a)) ** 2 + 0.5 * math.log(2 * math.pi) for net in own.members)
    got = own.loss(**own.data(given, FIRST)).value.item()
    assert got == pytest.approx((COUNTS * missed.sum(-1)).mean(), rel=1e-9)


def test_the_bonus_is_the_variance_over_members_of_the_step_that_arrives(monkeypatch: pytest.MonkeyPatch) -> None:
    own, given = ensemble(monkeypatch), states()
    (h, _), (z, _), (a, _) = (steps(name, given) for name in "hza")
    means = np.stack([net.by_hand(h, z, a) for net in own.members])
    wanted = means.var(0, ddof=1).mean(-1).reshape(B, T - 1)
    got = own(State(given, 2)).detach().numpy()
    np.testing.assert_allclose(got[:, 1:], -wanted, rtol=1e-9)
    assert (got[:, 0] == 0).all()


def test_a_bonus_can_be_climbed_through_the_action(monkeypatch: pytest.MonkeyPatch) -> None:
    """d/da of mean_d var_k(μ_kd) of one step is 2/(E(K−1)) Σ_kd (μ_kd − μ̄_d) W_kd,a, for policies that move by it."""
    own, given = ensemble(monkeypatch), states()
    given["a"].requires_grad_()
    own(given)[:, 1].sum().backward()
    h, z, a = (given[name][:, 0].detach().numpy() for name in "hza")
    means = np.stack([net.by_hand(h, z, a) for net in own.members])
    slopes = np.stack([net.linear.weight.detach().numpy()[:, -A:] for net in own.members])
    wanted = np.einsum("kbd,kda->ba", means - means.mean(0), slopes) * 2 / (E_ * 2)
    np.testing.assert_allclose(given["a"].grad[:, 0], -wanted, rtol=1e-9)
    assert (given["a"].grad[:, 1:] == 0).all()


def test_members_that_agree_earn_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    own = ensemble(monkeypatch)
    for net in own.members:
        net.load_state_dict(own.members[0].state_dict())
    assert own(states()).abs().max() < 1e-20


def module(monkeypatch: pytest.MonkeyPatch, rate: float = 0.0, **space: ActionSet) -> ICM:
    linear(monkeypatch)
    torch.manual_seed(0)
    acts = space or {"a": ActionSet(A, "choice")}
    return ICM({"z": Z}, acts, width=4, beta=0.2, eta=0.7, rate=rate).double()


def log_softmax(x: np.ndarray) -> np.ndarray:
    return x - np.log(np.exp(x).sum(-1, keepdims=True))


def test_inverse_and_forward_losses_are_weighed_by_beta(monkeypatch: pytest.MonkeyPatch) -> None:
    """The value by NumPy, and the gradient of every weight by finite differences of it."""
    own = module(monkeypatch)
    given = states(a=torch.eye(A)[torch.tensor([[0, 1, 1, 0], [1, 0, 0, 1]])])

    def by_hand() -> float:
        (z, later), (a, _) = (steps(name, given) for name in "za")
        phi, after = own.encode.by_hand(z), own.encode.by_hand(later)  # type: ignore[operator]
        inverse = -(a * log_softmax(own.inverse["a"].by_hand(phi, after))).sum(-1)  # type: ignore[operator]
        forward = 0.5 * ((own.ahead.by_hand(phi, a) - after) ** 2).sum(-1)  # type: ignore[operator]
        return float((COUNTS * (0.8 * inverse + 0.2 * forward)).mean())

    out = own.loss(**own.data(given, FIRST))
    assert out.value.item() == pytest.approx(by_hand(), rel=1e-9)
    out.value.backward()
    for name, weight in own.named_parameters():
        flat, gradient = weight.data.view(-1), weight.grad
        assert gradient is not None, name
        for i in (0, len(flat) - 1):
            flat[i] += 1e-6
            above = by_hand()
            flat[i] -= 2e-6
            slope = (above - by_hand()) / 2e-6
            flat[i] += 1e-6
            assert gradient.view(-1)[i].item() == pytest.approx(slope, rel=1e-5, abs=1e-8), name


def test_the_error_among_features_is_the_bonus(monkeypatch: pytest.MonkeyPatch) -> None:
    own, given = module(monkeypatch), states()
    (z, later), (a, _) = (steps(name, given) for name in "za")
    ahead = own.ahead.by_hand(own.encode.by_hand(z), a)  # type: ignore[operator]
    wanted = 0.35 * ((ahead - own.encode.by_hand(later)) ** 2).sum(-1)  # type: ignore[operator]
    np.testing.assert_allclose(own(given)[:, 1:].detach().flatten(), -wanted, rtol=1e-9)
    given["a"].requires_grad_()
    own(given)[:, 1:].sum().backward()
    slope = own.ahead.linear.weight.detach().numpy()[:, -A:]  # type: ignore[union-attr]
    wanted = (0.7 * (ahead - own.encode.by_hand(later)) @ slope).reshape(B, T - 1, A)  # type: ignore[operator]
    np.testing.assert_allclose(given["a"].grad[:, :-1], -wanted, rtol=1e-9)


def test_every_kind_of_action_is_told_by_its_own_density(monkeypatch: pytest.MonkeyPatch) -> None:
    own = module(monkeypatch, a_1=ActionSet(A), a_2=ActionSet(3, "flags"))
    acts = {"a_1": torch.randn(B, T, A), "a_2": torch.randint(0, 2, (B, T, 3))}
    given = states(**acts)
    out = own.loss(**own.data(given, FIRST))
    phi, after = (own.encode.by_hand(x) for x in steps("z", given))  # type: ignore[operator]
    numbers, flags = (steps(name, given)[0] for name in ("a_1", "a_2"))
    mean, logits = (own.inverse[k].by_hand(phi, after) for k in ("a_1", "a_2"))  # type: ignore[operator]
    likely = -(0.5 * (numbers - mean) ** 2 + 0.5 * math.log(2 * math.pi)).sum(-1)
    likely += (flags * -np.log1p(np.exp(-logits)) + (1 - flags) * -np.log1p(np.exp(logits))).sum(-1)
    ahead = own.ahead.by_hand(phi, numbers, flags)  # type: ignore[operator]
    wanted = -0.8 * likely + 0.1 * ((ahead - after) ** 2).sum(-1)
    assert out.value.item() == pytest.approx((COUNTS * wanted).mean(), rel=1e-9)
    assert str(own.loss.latex).count("g(a_{") == 2


@pytest.mark.parametrize("kind", ["disagreement", "icm"])
def test_the_running_size_is_a_mean_and_then_an_average_that_forgets(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    own: Curious = ensemble(monkeypatch, rate=0.4) if kind == "disagreement" else module(monkeypatch, rate=0.4)
    given, means = states(a=torch.eye(A)[torch.tensor([[0, 1, 1, 0], [1, 0, 0, 1]])]), []
    for scale in (1.0, 3.0, 2.0, 0.5):
        seen = {**given, "z": scale * given["z"]}
        before = -own(seen)[:, 1:].detach().flatten().numpy() * own.size.item()
        means.append((COUNTS * before).sum() / COUNTS.sum())
        own.data(seen, FIRST)
    size = 0.6 * (0.6 * (means[0] + means[1]) / 2 + 0.4 * means[2]) + 0.4 * means[3]
    assert own.size.item() == pytest.approx(size, rel=1e-6)
    own.eval()
    own.data(given, FIRST)
    assert own.size.item() == pytest.approx(size, rel=1e-6)
    assert {"size", "count"} <= own.state_dict().keys()


def test_a_bonus_of_steps_refuses_what_it_cannot_tell(monkeypatch: pytest.MonkeyPatch) -> None:
    own, given = ensemble(monkeypatch), states()
    with pytest.raises(ShapeError, match=r"expected states \[N, T ≥ 2"):
        own(State({k: v[:, 0] for k, v in given.items()}))
    with pytest.raises(MissingInputError, match="needs a of every state, and they hold h, z"):
        own({"h": given["h"], "z": given["z"]})
    with pytest.raises(ConfigError, match="two members or more"):
        Disagreement({"h": (H,)}, {"a": A}, ("e", (E_,)), members=1)
    with pytest.raises(FormulaError, match="rename that variable"):
        Disagreement({"w": (H,)}, {"a": A}, ("e", (E_,)))
    with pytest.raises(ConfigError, match=r"Did you mean disagreement\?|disagreement"):
        CuriositySettings("disagreemnt")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="beta in"):
        CuriositySettings("icm", beta=1.0)


def test_settings_name_the_bonus_and_its_weights() -> None:
    features, space = {"h": (H,), "z": Z}, {"a": ActionSet(A)}
    assert curious_by(CuriositySettings(), features, space, E_) == {}
    assert CuriositySettings().weights == {}
    own = CuriositySettings("disagreement", bonus=0.5, reward=0.0, target="latent", members=2, units=4, layers=1)
    made = curious_by(own, features, space, E_)
    assert own.weights == {"reward": 0.0, "disagreement": 0.5}
    assert str(made["disagreement"].loss.latex).count("p_{2}(z' \\mid h, z, a)") == 1
    told = curious_by(CuriositySettings("icm", units=4, layers=1), features, space, E_)["icm"]
    assert told.features == ("z",)


SIDE, NOISE = 5, 17  # places of a side; coins, 40 % of the numbers that are seen
MOVES = torch.tensor([[0, 1], [0, -1], [1, 0], [-1, 0]])


def walks(rows: int, steps: int, columns: int = SIDE, noise: int = NOISE) -> dict[str, Tensor]:
    """Random steps on a grid, within its first columns, seen as a one-hot beside coins that no action has thrown."""
    place = torch.randint(0, columns, (rows, 2))
    seen, done = [], []
    for _ in range(steps):
        action = torch.randint(0, 4, (rows,))
        where = nn.functional.one_hot(place[:, 0] * SIDE + place[:, 1], SIDE**2)
        seen.append(torch.cat([where, torch.randint(0, 2, (rows, noise))], -1).float())
        done.append(nn.functional.one_hot(action, 4).float())
        place = (place + MOVES[action]).clamp(0, columns - 1)
    return {"x": torch.stack(seen, 1), "a": torch.stack(done, 1)}


def learnt(own: Curious, updates: int, **options: int) -> Curious:
    optimiser = torch.optim.Adam(own.parameters(), 2e-3)
    for _ in range(updates):
        data = own.data(walks(16, 9, **options), torch.zeros(16, 9, dtype=torch.bool))
        optimiser.zero_grad()
        own.loss(**data).value.backward()
        optimiser.step()
    return own


@pytest.mark.slow
def test_noise_that_no_action_makes_earns_hardly_a_bonus() -> None:
    """The bonus of familiar steps over that of steps to a shuffled successor: below .05 although two of five numbers
    are noise, by which the best model of the numbers themselves has more than .5. Both hold for each of three seeds,
    and for the interval of 95 % of their mean.
    """
    ratios, of_numbers = [], []
    for seed in range(3):
        torch.manual_seed(seed)
        own = ICM({"x": (SIDE**2 + NOISE,)}, {"a": ActionSet(4, "choice")}, width=16, units=64, rate=0.0)
        learnt(own, 700)
        given = walks(256, 9)
        before, after = ({k: v.flatten(0, 1) for k, v in side.items()} for side in (
            {k: v[:, :-1] for k, v in given.items()}, {"x": given["x"][:, 1:]},
        ))  # fmt: skip
        other = {"x": after["x"][torch.randperm(len(after["x"]))]}
        with torch.no_grad():
            familiar, shuffled = (own.bonus(before, side).mean().item() for side in (after, other))
        ratios.append(familiar / shuffled)
        # The best model knows where a step leads, and of each coin that its mean is a half.
        best = torch.cat((after["x"][:, : SIDE**2], torch.full((len(after["x"]), NOISE), 0.5)), 1)
        familiar, shuffled = ((best - side["x"]).square().sum(-1).mean().item() for side in (after, other))
        of_numbers.append(familiar / shuffled)
    # By hand: NOISE/4 over NOISE/4 and 2 for each pair of unlike places, of which 25 places have nearly all.
    assert np.mean(of_numbers) == pytest.approx(NOISE / 4 / (NOISE / 4 + 2 * 24 / 25), abs=0.02)
    reach = 4.303 / math.sqrt(3)  # Student's t of two degrees of freedom
    assert max(ratios) < 0.05
    assert np.mean(ratios) + reach * np.std(ratios, ddof=1) < 0.05
    assert min(of_numbers) > 0.5
    assert np.mean(of_numbers) - reach * np.std(of_numbers, ddof=1) > 0.5


@pytest.mark.slow
def test_members_disagree_where_nobody_has_been() -> None:
    torch.manual_seed(0)
    own = Disagreement({"x": (SIDE**2,)}, {"a": 4}, ("x", (SIDE**2,)), members=5, units=64, layers=1, rate=0.0)
    learnt(own, 500, columns=3, noise=0)
    place = torch.arange(SIDE**2)
    inside = (place // SIDE < 2) & (place % SIDE < 2)
    seen = {"x": torch.eye(SIDE**2).repeat_interleave(4, 0), "a": torch.eye(4).repeat(SIDE**2, 1)}
    with torch.no_grad():
        found = own.bonus(seen, {}).unflatten(0, (SIDE**2, 4)).mean(1)
    beyond = (place // SIDE > 2) | (place % SIDE > 2)
    assert found[beyond].mean() > 5 * found[inside].mean()
