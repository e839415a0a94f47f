"""What the products of a training step cost: operations and bytes, cycles and energy on machines to come.

``layers`` and ``settings`` describe a network, ``products`` and ``counts`` its products, ``arrays``,
``systolic``, ``energy`` and ``gpus`` the machines, ``analysis`` and ``remedies`` what the one costs on the
other.
"""

from strop.hardware.analysis import Analysis, Cost, Sum, analyse
from strop.hardware.arrays import ARRAYS, Array, find_array
from strop.hardware.cells import CELLS, Cell
from strop.hardware.counts import Count, count, operations, works
from strop.hardware.description import Description, read
from strop.hardware.energy import ENERGIES, Energy
from strop.hardware.gpus import GPUS, Gpu, Tiling, speedup, tiling
from strop.hardware.layers import Drop, Layer, Linear, Matrix
from strop.hardware.products import Product, Work
from strop.hardware.remedies import Remedy, remedies
from strop.hardware.settings import PAPER, Layers, Setting, Stack
from strop.hardware.systolic import Words

__all__ = [
    "ARRAYS",
    "CELLS",
    "ENERGIES",
    "GPUS",
    "PAPER",
    "Analysis",
    "Array",
    "Cell",
    "Cost",
    "Count",
    "Description",
    "Drop",
    "Energy",
    "Gpu",
    "Layer",
    "Layers",
    "Linear",
    "Matrix",
    "Product",
    "Remedy",
    "Setting",
    "Stack",
    "Sum",
    "Tiling",
    "Words",
    "Work",
    "analyse",
    "count",
    "find_array",
    "operations",
    "read",
    "remedies",
    "speedup",
    "tiling",
    "works",
]
