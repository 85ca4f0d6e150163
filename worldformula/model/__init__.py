"""Static models: what every one of them offers (`contract`), and a run that trains one (`config`, `run`)."""

from worldformula.model.contract import Model

__all__ = ["Model"]
