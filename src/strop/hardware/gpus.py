"""Matrix products on a GPU in tiles: waves, lengths of loops, loads, and the time that follows from them."""

from dataclasses import dataclass

from strop.hardware.checks import check_count, check_positive, check_text
from strop.hardware.counts import works
from strop.hardware.memory import memory_words
from strop.hardware.products import Phase, Product, Schedule, Work
from strop.hardware.settings import Setting
from strop.hardware.systolic import Words


@dataclass(frozen=True)
class Gpu:
    """A GPU whose multiprocessors each compute one tile of a result at a time.

    Args:
        name: what tables call it.
        multiprocessors: of the GPU.
        tile: rows and columns of a result's tile, and how much of the sum a turn of its loop takes.
        teraflops: peak of all multiprocessors in words of ``bits``, 10^12 operations a second.
        bandwidth: GB/s from and to memory.
        l2: MiB of the cache that all share, half of which holds what a sequence uses again.
        l2_bandwidth: GB/s from and to that cache.
        bits: of a word.
        split: parts that a sum is cut into (split-K), as many tiles more, added up through memory.
    """

    name: str
    multiprocessors: int
    tile: tuple[int, int, int]
    teraflops: float
    bandwidth: float
    l2: float
    l2_bandwidth: float
    bits: int = 16
    split: int = 1

    def __post_init__(self) -> None:
        check_text("name", self.name)
        check_count("multiprocessors", self.multiprocessors, most=100_000)
        if not isinstance(self.tile, list | tuple) or len(self.tile) != 3:
            raise ValueError(f"tile: {self.tile!r}; rows, columns and depth are needed, as [128, 128, 32]")
        object.__setattr__(self, "tile", tuple(self.tile))
        for extent in self.tile:
            check_count("tile", extent, most=65_536)
        for name in ("teraflops", "bandwidth", "l2", "l2_bandwidth"):
            check_positive(name, getattr(self, name))
        check_count("bits", self.bits, least=8, most=64)
        check_count("split", self.split, most=65_536)


#: By name: the makers' figures, with the tile of their libraries' large products in that precision. Bytes a
#: cycle from L2: 2048 of a V100, of which a TITAN V has three quarters, and 5120 of an A100 (its whitepaper),
#: and of an H100 (assumed).
GPUS = {
    gpu.name: gpu
    for gpu in (
        # The paper's, in float32 without tensor cores.
        Gpu("titan-v", 80, (128, 128, 8), 14.9, bandwidth=653, l2=4.5, l2_bandwidth=2235, bits=32),
        # SXM with 80 GB, and SXM5; bfloat16 on tensor cores, dense.
        Gpu("a100", 108, (128, 128, 32), 312, bandwidth=2039, l2=40, l2_bandwidth=7219),
        Gpu("h100", 132, (128, 128, 64), 989, bandwidth=3352, l2=50, l2_bandwidth=8986),
    )
}


@dataclass(frozen=True)
class Tiling:
    """A product on a GPU, one of its ``times``.

    Attributes:
        tiles: of the result, times the parts of the sum.
        waves: rounds in which multiprocessors compute them.
        loop: turns of a tile's loop over the sum.
        loads: words that tiles load, from wherever they are.
        stores: words that they store.
    """

    tiles: int
    waves: int
    loop: int
    loads: int
    stores: int


def tiling(product: Product, gpu: Gpu) -> Tiling:
    """How one of the products is cut into tiles.

    Args:
        product: its sizes.
        gpu: its tile and multiprocessors.
    """
    rows, columns, depth = gpu.tile
    down, across = -(-product.m // rows), -(-product.n // columns)
    loop = -(-product.k // depth)
    split = min(gpu.split, loop)
    tiles = down * across * split
    loads = product.m * product.k * across + product.k * product.n * down
    stores = product.m * product.n * split
    return Tiling(tiles, -(-tiles // gpu.multiprocessors), -(-loop // split), loads, stores)


def seconds(work: Work, gpu: Gpu) -> float:
    """The time of a work: that of its loops, and then that of its results, which nothing hides.

    Loops take the time of their operations at the multiprocessors' peak, or of their loads from L2 or from
    memory if that is longer. Results are stored, and read first where products add to them. Launches, waiting
    between steps and the gathering of columns are left out.
    """
    rows, columns, depth = gpu.tile
    turn = 2 * rows * columns * depth / (gpu.teraflops * 1e12 / gpu.multiprocessors)
    words = gpu.bandwidth * 1e9 / (gpu.bits / 8)  # a second
    l2_words = gpu.l2_bandwidth * 1e9 / (gpu.bits / 8)
    capacity = int(gpu.l2 * 2**20 * 8 / 2 / gpu.bits)
    moved = memory_words(work, Words(capacity, capacity, capacity), lambda _: Words(1, 1, 1))
    adds = work.phase == "wg" and sum(product.times for product in work.products) > 1
    turns = loads = stores = 0
    for product in work.products:
        tiles = tiling(product, gpu)
        turns += work.matrix.copies * product.times * tiles.waves * tiles.loop
        loads += work.matrix.copies * product.times * tiles.loads
        again = adds or gpu.split > 1
        stores += work.matrix.copies * product.times * tiles.stores * (2 if again else 1)
    loops = max(turns * turn, loads / l2_words, (moved.a + moved.b) / words)
    return loops + max(stores / l2_words, (moved.c + moved.c_read) / words)


def step_seconds(setting: Setting, gpu: Gpu, schedule: Schedule, phase: Phase | None = None) -> float:
    """The time of a training step's products, of one phase or of all, one after another."""
    chosen = works(setting.layers, setting.batch, setting.steps, schedule)
    return sum(seconds(work, gpu) for work in chosen if phase in (None, work.phase))


def speedup(setting: Setting, gpu: Gpu, over: Schedule, phase: Phase | None = None) -> float:
    """How many times faster kept columns are than dense products.

    Args:
        setting: what is trained.
        gpu: on what.
        over: the dense products: ``stepwise`` or, over all steps at once, ``batched``.
        phase: ``fp``, ``bp`` or ``wg``; None for all three.
    """
    return step_seconds(setting, gpu, over, phase) / step_seconds(setting, gpu, "kept", phase)
