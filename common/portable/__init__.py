"""Bundles as one file that others can check before they run any of it, and networks alone for other programs."""

from common.portable.export import export
from common.portable.package import package
from common.portable.verify import verify

__all__ = ["export", "package", "verify"]
