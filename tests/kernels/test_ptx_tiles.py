"""Register tiles: fragments of any matrix, the product of a warp, its accumulators."""

import dataclasses
import re
from types import SimpleNamespace

import numpy as np
import pytest

pytest.importorskip("numba_cuda", reason="the building blocks are numba-cuda intrinsics")
pytest.importorskip("greenlet", reason="the twins run in the emulator")
ml_dtypes = pytest.importorskip("ml_dtypes", reason="the reference for bfloat16")

from greenlet import getcurrent  # noqa: E402
from numba import cuda, float32, int32, uint32  # noqa: E402
from ptx_support import ARCHITECTURES, array, emulated, encode, launches, needs_ptxas  # noqa: E402

from flashrnn_numba.kernels import ptx  # noqa: E402
from flashrnn_numba.kernels.assemble import assemble, compile_ptx  # noqa: E402
from flashrnn_numba.kernels.emulator import OutOfBoundsError, emulate  # noqa: E402
from flashrnn_numba.kernels.ptx import formats, product, tiles  # noqa: E402

types = cuda.types


def in_pieces(m_tiles, n_tiles, k_steps, registers, dtype, row_bytes, chains, accumulate):
    """warp_mma with B in registers first."""
    load = ptx.load_columns(n_tiles, k_steps, row_bytes)
    multiply = ptx.columns_mma(m_tiles, n_tiles, k_steps, registers, dtype, chains)
    if registers:
        return lambda fragments, shared, b: multiply(fragments, shared, load(b))
    return lambda shared, b: multiply(shared, load(b))


def product_kernel(
    m_tiles, n_tiles, k_steps, registers, dtype, chains=1, accumulate=False, make=ptx.warp_mma
):
    """C = A B^T by one warp: A from global into registers and shared, B rows in shared memory."""
    row_bytes = 32 * k_steps + 16
    words = 8 * k_steps  # of 32 bits, a row
    staged = m_tiles * k_steps - registers
    b_at = 512 * staged
    c_at = b_at + 8 * n_tiles * row_bytes
    columns = 8 * n_tiles + 2
    load = ptx.load_fragments(m_tiles, k_steps, dtype, 0, registers) if registers else None
    stage = ptx.stage_fragments(m_tiles, k_steps, dtype, registers) if staged else None
    bases = ptx.addresses(m_tiles)
    mma = make(m_tiles, n_tiles, k_steps, registers, dtype, row_bytes, chains, accumulate)
    store = ptx.store_accumulators(m_tiles, n_tiles, 4 * columns)

    def kernel(a, b, c):
        lane = int32(cuda.threadIdx.x)
        group, quad = lane >> 2, lane & 3
        base = ptx.shared_address(cuda.shared.array(0, uint32))
        for i in range(lane, 8 * n_tiles * words, 32):
            target = ptx.shared_at(base, b_at + i // words * row_bytes + i % words * 4)
            ptx.st_shared_u32(target, b[i // words, i % words])
        first = ptx.global_at(ptx.global_address(a), 4 * (group * words + quad))
        tiles = bases(first, 16 * 4 * words)
        shared = ptx.shared_at(base, 16 * lane)
        if staged:
            stage(tiles, 8 * 4 * words, shared)
        cuda.syncwarp()
        rows = ptx.shared_at(base, b_at + (lane & 7) * row_bytes + (lane >> 3) * 16)
        if registers:
            fragments = load(tiles, 8 * 4 * words)
            acc = mma(fragments, shared, rows)
        else:
            acc = mma(shared, rows)
        store(ptx.shared_at(base, c_at + (group * columns + 2 * quad) * 4), acc)
        cuda.syncwarp()
        for i in range(lane, 16 * m_tiles * 8 * n_tiles, 32):
            row, column = i // (8 * n_tiles), i % (8 * n_tiles)
            source = ptx.shared_at(base, c_at + (row * columns + column) * 4)
            c[row, column] = ptx.ld_shared_f32(source)

    return kernel, c_at + 16 * m_tiles * columns * 4


TILES = [
    (1, 1, 1, 1, "bf16", 1),
    (2, 2, 3, 6, "bf16", 1),
    (2, 1, 4, 3, "bf16", 2),
    (1, 2, 5, 0, "f16", 3),
    (2, 2, 3, 4, "tf32", 2),
]


@pytest.mark.parametrize(("m_tiles", "n_tiles", "k_steps", "registers", "dtype", "chains"), TILES)
@launches
def test_product_of_tiles(m_tiles, n_tiles, k_steps, registers, dtype, chains, launch):
    rng = np.random.default_rng(3)
    k = k_steps * ptx.mma_type(dtype).k
    a, a_values = encode(rng.standard_normal((16 * m_tiles, k)).astype(np.float32), dtype)
    b, b_values = encode(rng.standard_normal((8 * n_tiles, k)).astype(np.float32), dtype)
    c = np.full((16 * m_tiles, 8 * n_tiles), np.nan, np.float32)
    kernel, shared = product_kernel(m_tiles, n_tiles, k_steps, registers, dtype, chains)
    launch(kernel, 32, shared)(a, b, c)
    np.testing.assert_allclose(c, a_values @ b_values.T, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("m_tiles", "n_tiles", "k_steps", "registers", "dtype", "chains"), TILES)
def test_product_in_pieces(m_tiles, n_tiles, k_steps, registers, dtype, chains):
    rng = np.random.default_rng(3)
    k = k_steps * ptx.mma_type(dtype).k
    a, _ = encode(rng.standard_normal((16 * m_tiles, k)).astype(np.float32), dtype)
    b, _ = encode(rng.standard_normal((8 * n_tiles, k)).astype(np.float32), dtype)
    whole, pieces = (np.full((16 * m_tiles, 8 * n_tiles), np.nan, np.float32) for _ in range(2))
    for c, make in ((whole, ptx.warp_mma), (pieces, in_pieces)):
        kernel, shared = product_kernel(
            m_tiles, n_tiles, k_steps, registers, dtype, chains, make=make
        )
        emulate(kernel, 1, 32, shared_bytes=shared)(a, b, c)
    np.testing.assert_array_equal(pieces, whole)


@launches
def test_product_accumulates(launch):
    mma = ptx.warp_mma(1, 1, 1, 1, "bf16", 48, 1, accumulate=True)

    def kernel(a, b, c):
        lane = int32(cuda.threadIdx.x)
        s = cuda.shared.array((8, 12), uint32)
        for i in range(lane, 64, 32):
            s[i // 8, i % 8] = b[i // 8, i % 8]
        cuda.syncwarp()
        g, q = lane >> 2, lane & 3
        fragment = (a[g, q], a[g + 8, q], a[g, q + 4], a[g + 8, q + 4])
        base = ptx.shared_address(s)
        rows = ptx.shared_at(base, (lane & 7) * 48 + (lane >> 3) * 16)
        acc = (float32(1), float32(2), float32(3), float32(4))
        acc = mma(fragment, base, rows, acc)
        acc = mma(fragment, base, rows, acc)
        for i in range(4):
            c[g + 8 * (i // 2), 2 * q + i % 2] = acc[i]

    rng = np.random.default_rng(4)
    a, a_values = encode(rng.standard_normal((16, 16)).astype(np.float32), "bf16")
    b, b_values = encode(rng.standard_normal((8, 16)).astype(np.float32), "bf16")
    c = np.zeros((16, 8), np.float32)
    launch(kernel, 32)(a, b, c)
    start = np.tile([[1.0, 2.0]], (16, 4)) + np.repeat([[0.0], [2.0]], 8, axis=0)
    np.testing.assert_allclose(c, 2 * a_values @ b_values.T + start, rtol=1e-5, atol=1e-5)


def gather_kernel(dtype, rows, k, transposed):
    """A of any size and stride into fragments, written out as the 16 x k_steps tile they are."""
    kind = ptx.mma_type(dtype)
    k_steps = -(-k // kind.k)
    per = 4 // kind.itemsize
    gather = ptx.gather_fragments(1, k_steps, dtype, 0, 1)
    stage = ptx.stage_gathered(1, k_steps, dtype, 1) if k_steps > 1 else None
    row_pitch, k_pitch = (1, rows) if transposed else (k, 1)
    itemsize, staged = kind.itemsize, k_steps - 1

    def kernel(a, words):
        lane = int32(cuda.threadIdx.x)
        g, q = lane >> 2, lane & 3
        base = ptx.global_address(a)
        offset = (g * row_pitch + per * q * k_pitch) * itemsize
        tiles = (ptx.global_at(base, offset),)
        half, pitch = 8 * row_pitch * itemsize, k_pitch * itemsize
        left = (rows - g,)
        fragment = gather(tiles, half, pitch, left, k - per * q)
        for i in range(4):
            words[0, lane, i] = fragment[i]
        if staged:
            s = cuda.shared.array((staged, 32, 4), uint32)
            shared = ptx.shared_at(ptx.shared_address(s), 16 * lane)
            stage(tiles, half, pitch, left, k - per * q, shared)
            for f in range(staged):
                for i in range(4):
                    words[f + 1, lane, i] = s[f, lane, i]

    return kernel, k_steps


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize(("dtype", "rows", "k"), [("bf16", 13, 21), ("f16", 5, 7), ("tf32", 9, 19)])
@launches
def test_gathered_fragments_of_ragged_matrices(dtype, rows, k, transposed, launch):
    kind = {"bf16": ml_dtypes.bfloat16, "f16": np.float16, "tf32": np.float32}[dtype]
    values = np.random.default_rng(5).standard_normal((rows, k)).astype(kind)
    kernel, k_steps = gather_kernel(dtype, rows, k, transposed)
    words = np.zeros((k_steps, 32, 4), np.uint32)
    stored = np.ascontiguousarray(values.T if transposed else values)
    launch(kernel, 32)(stored.view(np.uint32 if dtype == "tf32" else np.uint16), words)
    tile = np.concatenate([formats.fragment_a(w, dtype) for w in words], axis=1)
    expected = np.zeros_like(tile)
    expected[:rows, :k] = values
    if dtype == "tf32":
        expected = formats.f32_to_tf32(expected).view(np.float32)
    np.testing.assert_array_equal(tile, expected)


# The code generators themselves, run instruction by instruction: without a GPU nothing else would
# notice that the generated code and the twin, which computes the tile at once, do not agree.


class Interpreter:
    """Stands in for LLVM's builder: values are numbers, and add adds."""

    add = staticmethod(lambda a, b: a + b)
    fadd = staticmethod(lambda a, b: a + b)
    mul = staticmethod(lambda a, b: a * b)
    and_ = staticmethod(lambda a, b: a and b)
    zext = staticmethod(lambda value, to: int(value))

    @staticmethod
    def icmp_signed(relation, a, b):
        assert relation == ">"
        return a > b


def interpret(builder, text, outputs, inputs, effects="memory"):
    """One inline-assembly call, by the twin of its instruction."""
    t, values = getcurrent(), [value for _, value in inputs]
    if text.startswith("mma"):
        twin = ptx.BLOCKS["mma_" + text.split(".")[7]].block.twin
        return twin(t, values[:4], values[4:6], values[6:])
    if text.startswith("ldmatrix"):
        return ptx.BLOCKS["ldmatrix_" + text.split(".")[4]].block.twin(t, values[0])
    if text.startswith("ld.shared.v4.u32"):
        return t.load("shared", values[0], "<4I")
    if text.startswith("st.shared"):
        return t.store("shared", values[0], "<2f" if "v2.f32" in text else "<4I", values[1:])
    if text.startswith("ld.global.nc.u32"):
        return t.load("global_nc", values[0], "<I")
    if "setp" in text:
        form = "<H" if "u16" in text else "<I"
        return t.load("global_nc", values[0], form) if values[1] else (0,)
    if "cvt.rna" in text:
        return [formats.f32_to_tf32(np.uint32(values[0]).view(np.float32)).item()]
    assert text.startswith("mov.b32 $0, {$1,$2}"), text
    return [values[0] | values[1] << 16]


def generated(intrinsic):
    """The block with its code generator in place of its twin."""
    block = intrinsic.block

    def twin(t, *given):
        operands = {
            name: list(value) if registers.count else [value]
            for (name, registers), value in zip(block.parameters.items(), given, strict=True)
        }
        values = block.emit(Interpreter, operands)
        return tuple(values) if block.result else None

    return SimpleNamespace(block=dataclasses.replace(block, twin=twin))


@pytest.fixture
def generators(monkeypatch):
    for module in (tiles, product):
        monkeypatch.setattr(module, "asm", interpret)
        monkeypatch.setattr(module, "add", lambda builder, value, constant: value + constant)
        monkeypatch.setattr(module, "constant", lambda kind, value: value)
    for name in ("load_fragments", "stage_fragments", "gather_fragments", "stage_gathered"):
        make = getattr(ptx, name)
        monkeypatch.setattr(ptx, name, lambda *sizes, make=make: generated(make(*sizes)))
    for name in ("warp_mma", "store_accumulators", "addresses"):
        make = getattr(ptx, name)
        monkeypatch.setattr(
            ptx, name, lambda *sizes, make=make, **more: generated(make(*sizes, **more))
        )


@pytest.mark.usefixtures("generators")
@pytest.mark.parametrize(("m_tiles", "n_tiles", "k_steps", "registers", "dtype", "chains"), TILES)
def test_generated_product(m_tiles, n_tiles, k_steps, registers, dtype, chains):
    test_product_of_tiles(m_tiles, n_tiles, k_steps, registers, dtype, chains, emulated)


@pytest.mark.usefixtures("generators")
def test_generated_accumulation():
    test_product_accumulates(emulated)


@pytest.mark.usefixtures("generators")
@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("dtype", ["bf16", "tf32"])
def test_generated_gathering(dtype, transposed):
    test_gathered_fragments_of_ragged_matrices(dtype, 13, 21, transposed, emulated)


@needs_ptxas
@pytest.mark.parametrize("cc", ARCHITECTURES)
def test_tiles_assemble_without_spills(cc):
    kernel, _ = product_kernel(2, 2, 8, 10, "bf16", chains=2)
    signature = types.void(array(types.uint32, 2), array(types.uint32, 2), array(types.float32, 2))
    text = compile_ptx(kernel, signature, cc, launch_bounds=256)
    assert text.count("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32") == 2 * 2 * 8
    sums = re.findall(r"add(?:\.rn)?\.f32", text)
    assert len(sums) == 4 * 2 * 2  # two chains are added once at the end
    used = assemble(text, cc)
    assert used.spill_stores == used.spill_loads == used.stack_bytes == 0


@needs_ptxas
def test_gathered_fragments_assemble():
    kernel, _ = gather_kernel("bf16", 13, 21, True)
    signature = types.void(array(types.uint16, 2), array(types.uint32, 3))
    assert assemble(compile_ptx(kernel, signature, (8, 0)), (8, 0)).spill_stores == 0


def test_tile_sizes_are_checked():
    for make, message in (
        (lambda: ptx.load_fragments(1, 2, "fp8"), "expected one of bf16, f16, tf32"),
        (lambda: ptx.load_fragments(1, 2, "bf16", 1, 2), "within 0 to 2"),
        (lambda: ptx.warp_mma(1, 1, 2, 3, "bf16", 48), r"0 to m_tiles \* k_steps = 2"),
        (lambda: ptx.warp_mma(1, 1, 2, 2, "bf16", 40), "multiple of 16"),
        (lambda: ptx.columns_mma(1, 1, 2, 3, "bf16"), r"0 to m_tiles \* k_steps = 2"),
        (lambda: ptx.load_columns(1, 2, 40), "multiple of 16"),
        (lambda: ptx.store_accumulators(1, 1, 36), "multiple of 8"),
    ):
        with pytest.raises(ValueError, match=message):
            make()


def test_a_wrong_row_pitch_leaves_the_array():
    kernel, shared = product_kernel(1, 1, 2, 2, "bf16")
    a, b = np.zeros((8, 16), np.uint32), np.zeros((8, 16), np.uint32)  # half of A is missing
    with pytest.raises(OutOfBoundsError):
        emulate(kernel, 1, 32, shared_bytes=shared)(a, b, np.zeros((16, 8), np.float32))
