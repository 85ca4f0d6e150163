"""A VAE in one formula, on the digits of scikit-learn: print it, train it, look at its terms. Seconds on a CPU.

python examples/01_vae.py      (needs pip install 'worldformula[eval]')
"""

import torch
from torch import nn

from worldformula import KL, Bernoulli, E, Normal, log
from worldformula.data.digits import digits

torch.manual_seed(0)
data = digits(binarise=True)
train, test = torch.from_numpy(data.train_x), torch.from_numpy(data.test_x)

encoder = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 16))
decoder = nn.Sequential(nn.Linear(8, 128), nn.ReLU(), nn.Linear(128, 64))
prior = Normal("p(z)", shape=8)
encode = Normal("q(z|x)", encoder)
decode = Bernoulli("p(x|z)", decoder)

loss = (KL(encode, prior) - E(encode, log(decode))).mean()
print(loss, loss.code, loss.explain(), sep="\n\n")

optimiser = torch.optim.Adam(loss.parameters(), lr=3e-3)
for epoch in range(20):
    for x in train[torch.randperm(len(train))].split(64):
        optimiser.zero_grad()
        loss(x=x).value.backward()
        optimiser.step()
    if epoch % 5 == 4:
        with torch.no_grad():
            out = loss(x=test, seed=0)
        terms = "  ".join(f"{term} {value:.2f}" for term, value in out.terms.items())
        print(f"epoch {epoch + 1:2d}: {out.value:.2f} nats per unseen image   {terms}")
