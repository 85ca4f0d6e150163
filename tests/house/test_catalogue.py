"""Every file in a catalogue is a system, complete enough to be listed, cited and built."""

import inspect

import pytest

from worldformula import cards, catalogue
from worldformula.cards.run import resolve
from worldformula.catalogue import KINDS, System
from worldformula.errors import CatalogueError

WITH_FORMULA = ("models", "worlds")
FOUND = [(kind, name) for kind in KINDS for name in catalogue.names(kind)]


@pytest.mark.parametrize(("kind", "name"), FOUND, ids=lambda v: v)
def test_catalogue_file_ends_in_a_complete_system(kind, name):
    system = catalogue.find(name)
    assert isinstance(system, System)
    assert (system.kind, system.name) == (kind, name)
    assert system.summary.endswith(".")
    assert "\n" not in system.summary
    assert system.paper
    assert system.bibtex.lstrip().startswith("@")
    assert system.presets
    assert all(callable(preset) for preset in system.presets.values())
    assert callable(system.build)
    if kind in WITH_FORMULA:
        assert "__main__" in inspect.getsource(inspect.getmodule(system.build)), "ends in formula, code, one step"


def test_no_name_is_used_twice():
    names = [name for _, name in FOUND]
    assert len(names) == len(set(names))


def test_discover_imports_all_of_a_kind():
    assert [s.name for s in catalogue.discover("models")] == catalogue.names("models")


def test_a_wrong_name_lists_the_near_misses():
    with pytest.raises(CatalogueError, match="no system is called 'vea'. Did you mean 'vae'"):
        catalogue.find("vea")
    with pytest.raises(CatalogueError, match="no catalogue is called 'model'. Did you mean 'models'"):
        catalogue.names("model")
    with pytest.raises(CatalogueError, match="has no preset 'tyni'. Did you mean 'tiny'"):
        catalogue.find("vae").sizes("tyni")


@pytest.mark.parametrize("name", cards.names())
def test_card_names_a_system_and_an_entry(name):
    card = cards.load(name)
    assert catalogue.find(card.system).name == card.system
    assert card.command == f"worldformula reproduce {name}"
    assert card.claim.endswith(".")
    assert card.notes
    assert next(iter(inspect.signature(resolve(card)).parameters)) == "seed"
