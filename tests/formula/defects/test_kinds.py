"""Data of another dtype than the networks: the message names both, and the line to write makes it right."""

import pytest
import torch
from torch import nn

from tests.formula.defects.both import PATHS, run
from worldformula import Normal, log
from worldformula.errors import FormulaError

B, X = 3, 4


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.GRU(X, X, batch_first=True)

    def forward(self, x):
        return self.layer(x[:, None])[0][:, 0]


NETWORKS = {
    "linear": lambda: nn.Linear(X, X),
    "GRU": Recurrent,
    "GRU cell": lambda: nn.GRUCell(X, X),
    "normalised": lambda: nn.LayerNorm(X),
    "normalised over the batch": lambda: nn.BatchNorm1d(X),
    "convolution": lambda: nn.Sequential(nn.Unflatten(1, (1, X)), nn.Conv1d(1, 1, 1), nn.Flatten()),
    "a function": lambda: lambda x: x @ torch.eye(X),
}


@PATHS
@pytest.mark.parametrize("kind", [torch.float64, torch.int64], ids=str)
@pytest.mark.parametrize("name", NETWORKS)
def test_the_line_that_the_message_says_is_right(name, kind, path):
    torch.manual_seed(0)
    loss = log(Normal("p(z|x)", NETWORKS[name](), shape=X // 2)).mean()
    given = {"x": (10 * torch.randn(B, X)).to(kind), "z": torch.zeros(B, X // 2)}
    with pytest.raises(FormulaError) as refused:
        run(loss, path, **given)
    said = str(refused.value).splitlines()
    assert said[0].startswith("p(z|x): its network failed: ")
    assert said[2].split("|")[1].strip() == f"{str(kind).removeprefix('torch.')} [3, 4]"
    assert said[3].split("|")[1].strip() == ("none" if name == "a function" else "float32")
    line = said[4].removeprefix("pass ").split(";")[0]
    assert line == "x=x.float()"
    assert run(loss, path, **given | {"x": given["x"].float()}).value.isfinite()


def test_a_failure_of_shapes_is_still_one_of_shapes():
    loss = log(Normal("p(z|x)", nn.Linear(X + 1, X), shape=X // 2)).mean()
    with pytest.raises(FormulaError, match="make the network take these shapes"):
        loss(x=torch.zeros(B, X), z=torch.zeros(B, X // 2))


@PATHS
def test_classes_beside_data_of_another_dtype_stay_classes(path):
    class Both(nn.Module):
        def __init__(self):
            super().__init__()
            self.look, self.layer = nn.Embedding(5, X), nn.Linear(X, X)

        def forward(self, k, x):
            return self.look(k) + self.layer(x)

    loss = log(Normal("p(z|k,x)", Both(), shape=X // 2)).mean()
    given = {"k": torch.arange(B), "x": torch.zeros(B, X, dtype=torch.float64), "z": torch.zeros(B, X // 2)}
    with pytest.raises(FormulaError) as refused:
        run(loss, path, **given)
    assert str(refused.value).splitlines()[-1] == "pass x=x.float(); or compute in float64 throughout: loss.double()"
    assert run(loss, path, **given | {"x": torch.zeros(B, X)}).value.isfinite()


@pytest.mark.parametrize("direct", [False, True])
def test_data_on_another_device_than_the_weights_are_told_so(direct):
    """The meta device stands for any other."""
    encode = Normal("q(z|x)", nn.Linear(X, 2 * X), shape=X)
    x = z = torch.randn(B, X, device="meta")
    call = (lambda: encode.sample(x=x)) if direct else (lambda: (-log(encode)).mean()(x=x, z=z))
    with pytest.raises(FormulaError) as caught:
        call()
    said = str(caught.value)
    assert "x        | meta [3, 4]\n  weights  | cpu" in said
    whole = "q" if direct else "loss"
    assert f"two devices: move the tensor, .to('cpu'), or the networks, {whole}.to('meta')" in said
    assert "shapes" not in said
