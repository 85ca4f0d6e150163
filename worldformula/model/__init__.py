"""Static models: what every one of them offers (`contract`), and a run that trains one (`config`, `run`)."""

from worldformula.model.contract import Model
from worldformula.model.density import Density

__all__ = ["Density", "Model"]
