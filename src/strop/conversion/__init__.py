"""A PyTorch model's layers exchanged for strop's, and back."""

from strop.conversion.convert import convert, revert
from strop.conversion.report import Entry, Report

__all__ = ["Entry", "Report", "convert", "revert"]
