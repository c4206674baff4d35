"""Bundles as one file that others can check before they run any of it, and that need no repository."""

from common.portable.package import package
from common.portable.verify import verify

__all__ = ["package", "verify"]
