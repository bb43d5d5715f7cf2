"""The recipe without models, as the tests of builds have it."""

from tests.dataforge.conftest import fake

__all__ = ["fake"]
