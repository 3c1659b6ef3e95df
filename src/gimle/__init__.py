"""Gimle: a self-hosted AI platform in one package. `docs/explanation/house.md` draws its rooms."""

__version__ = "0.1.0"
