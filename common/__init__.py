"""Shared parts of the bundles: data, networks, methods, losses, metrics, handlers and reports."""

__version__ = "0.1.0"
