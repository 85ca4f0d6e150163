"""TD-VAE: the bound by hand, which frame is the target of which jump, and the world that jumps."""

import torch
from torch.distributions import Bernoulli, Normal, kl_divergence
from torch.nn import functional as F

from worldformula.testing import check_world
from worldformula.worlds.td_vae import Sizes, build

B, T, X, D = 3, 7, 8, 2
SMALL = Sizes(pixels=X, encoder=(12, 8), belief=10, latent=3, hidden=8, decoder=12, jump=D)


def batch(dtype=torch.float32):
    first = torch.zeros(B, T, dtype=torch.bool)
    first[1, 3] = True
    return {"x": torch.rand(B, T, X).bernoulli().to(dtype), "first": first}


def made(sizes=SMALL):
    torch.manual_seed(0)
    return build(sizes)


def test_code_is_interpreter_in_value_and_gradient():
    world, data = made().double(), batch(torch.double)
    noise = world.loss.noise(**data)
    values = [run(**data, noise=noise).value for run in (world.loss, world.loss.interpret)]
    torch.testing.assert_close(*values)
    pulls = [torch.autograd.grad(v, list(world.parameters())) for v in values]
    torch.testing.assert_close(*pulls)


def test_laws():
    jumps = F.one_hot(torch.randint(D, (B, T)), D).float()
    check_world(made(), batch() | {"delta": jumps})


def counter(rows, length, start=None):
    """A video that counts: frame t is the one-hot (start + t) mod X, so no two neighbours are alike."""
    start = torch.randint(X, (rows,)) if start is None else start
    return F.one_hot((start[:, None] + torch.arange(length)) % X, X).float()


def test_the_target_is_the_frame_at_the_later_time():
    """pixyzoo's slices paired x[t] with b[t+1]; here every frame of a counter video, belief and jump is checked."""
    world = made()
    x = counter(B, T)
    first = torch.zeros(B, T, dtype=torch.bool)
    out = world.loss(x=x, first=first, seed=0)
    s, nets = out.samples, dict(world.loss.named_children())
    jumps = s["delta"].argmax(-1) + 1
    total = torch.zeros(B)
    for row in range(B):
        state, beliefs = (torch.zeros(1, 10), torch.zeros(1, 10)), []
        for t in range(T):
            state = nets["lstm"].cell(nets["enc"](x[row : row + 1, t]), state)
            beliefs.append(state[0])
        for t in range(D, T):
            now, past = beliefs[t], beliefs[t - int(jumps[row, t])]
            u, z, u_, z_ = (s[k][row, t][None] for k in ("u", "z", "u_prime", "z_prime"))
            d = s["delta"][row, t][None]
            p = {k: Normal(**v) for k, v in {
                "u": nets["p_B_u_given_b"](now), "z": nets["p_B_z_given_u_b"](u, now),
                "u_": nets["p_B_u_given_b"](past), "z_": nets["p_B_z_given_u_b"](u_, past),
                "tu": nets["p_T_u_given_z_prime_u_prime_delta"](z_, u_, d),
                "tz": nets["p_T_z_given_u_z_prime_u_prime_delta"](u, z_, u_, d),
                "qu": nets["q_u_prime_given_z_u_b_prime_b_delta"](z, u, past, now, d),
                "qz": nets["q_z_prime_given_u_prime_z_u_b_prime_b_delta"](u_, z, u, past, now, d),
            }.items()}  # fmt: skip
            image = Bernoulli(logits=nets["p_x_given_z_u"](z, u)).log_prob(x[row, t])
            terms = (
                kl_divergence(p["qu"], p["u_"]) + kl_divergence(p["qz"], p["z_"]) + p["u"].log_prob(u)
                + p["z"].log_prob(z) - p["tu"].log_prob(u) - p["tz"].log_prob(z)
            )  # fmt: skip
            total[row] += (terms.sum() - image.sum()) / (T - D)
    torch.testing.assert_close(out.value, total.mean())
