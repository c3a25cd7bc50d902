"""PTX building blocks: they assemble for every architecture, and their twins are right.

The twins run in the emulator, the same kernels on a GPU where there is one. They load fragments the
way the PTX manual documents them, so that a wrong layout gives a wrong product.
"""

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

pytest.importorskip("numba_cuda", reason="the building blocks are numba-cuda intrinsics")
pytest.importorskip("greenlet", reason="the twins run in the emulator")
ml_dtypes = pytest.importorskip("ml_dtypes", reason="the reference for bfloat16")

from numba import cuda, float32, int32, uint16, uint32  # noqa: E402
from ptx_support import ARCHITECTURES, array, encode, launches, needs_ptxas  # noqa: E402

from flashrnn_numba.kernels import assemble as assembling  # noqa: E402
from flashrnn_numba.kernels import ptx  # noqa: E402
from flashrnn_numba.kernels.assemble import (  # noqa: E402
    Resources,
    assemble,
    compile_ptx,
    parse_resources,
)
from flashrnn_numba.kernels.ptx import formats  # noqa: E402

types = cuda.types
# Every block compiles and assembles


def call_everything(names):
    """A kernel that calls each block once; source text, because the operands differ in number."""
    lines = ["def kernel(out, words, i):"]
    for name in names:
        block = ptx.BLOCKS[name].block
        operands = []
        for registers in block.parameters.values():
            if registers.kind == "literal":
                operands.append("1")
            elif registers.kind == "array":
                operands.append("words")
            else:
                numba_name = {"u": "uint", "i": "int", "f": "float"}[registers.kind[0]]
                one = f"types.{numba_name}{registers.kind[1:]}(i)"
                count = registers.count
                operands.append(f"({', '.join([one] * count)},)" if count else one)
        call = f"{name}({', '.join(operands)})"
        count = block.result.count if block.result else 0
        if block.result is None:
            lines.append(f"    {call}")
        elif count:
            lines.append(f"    r = {call}")
            lines += [f"    out[{len(lines) + j}] = r[{j}]" for j in range(count)]
        else:
            lines.append(
                f"    out[{len(lines)}] = {call}"
            )  # one cell each, or it is optimised away
    names_of_kernel = {name: ptx.BLOCKS[name] for name in names} | {"types": types}
    exec("\n".join(lines), names_of_kernel)
    return names_of_kernel["kernel"]


@needs_ptxas
@pytest.mark.parametrize("cc", ARCHITECTURES)
def test_every_block_assembles(cc):
    names = [name for name, block in ptx.BLOCKS.items() if block.block.since <= 10 * cc[0]]
    signature = types.void(array(types.float64), array(types.uint32), types.int64)
    text = compile_ptx(call_everything(names), signature, cc, launch_bounds=256)
    for name in names:
        instruction = ptx.BLOCKS[name].block.text.split("{")[0].split("[")[0].strip()
        assert instruction.rstrip(";") in text, name
    assert assemble(text, cc).registers > 0


@needs_ptxas
def test_blocks_of_hopper_are_refused_by_ampere():
    def kernel(out):
        out[0] = ptx.cluster_rank()

    signature = types.void(array(types.uint32))
    text = compile_ptx(kernel, signature, (8, 0))
    with pytest.raises(RuntimeError, match="could not assemble for sm_80"):
        assemble(text, (8, 0))
    assert ptx.cluster_rank.block.since == 90


def test_names_and_exports_agree():
    for name, block in ptx.BLOCKS.items():
        assert getattr(ptx, name) is block, f"{name} is not exported"
        assert name in ptx.__all__, name
        assert block.block.section, name


def test_no_other_file_touches_llvmlite():
    root = assembling.__file__.rsplit("/", 2)[0]
    command = ["grep", "-rlE", "^ *(import|from) +llvmlite", root, "--include=*.py"]
    found = subprocess.run(command, capture_output=True, text=True).stdout.split()
    assert found
    assert all("/kernels/ptx/" in name for name in found), found


def test_a_barrier_is_not_duplicated_into_branches():
    """Without the attribute `convergent` LLVM makes two barriers of one, and six of the other."""

    def between_branches(x, n):
        if n > 3:
            x[0] = 1.0
        ptx.cluster_arrive()
        if n > 3:
            x[1] = 2.0

    def in_a_loop(x, n):
        i = 0
        while True:
            ptx.cluster_arrive()
            i += 1
            if i >= n:
                break
            x[i] = 1.0

    for kernel, cc in ((between_branches, (10, 0)), (in_a_loop, (9, 0))):
        text = compile_ptx(kernel, types.void(array(types.float32), types.int32), cc)
        assert text.count("barrier.cluster.arrive") == 1


def test_wrong_operands_are_typing_errors():
    def tuple_length(x):
        x[0] = ptx.mma_bf16((uint32(1), uint32(2)), (uint32(1), uint32(2)), (x[0], x[0]))[0]

    def float_address(x):
        ptx.st_shared_f32(x[0], x[0])

    def variable_literal(x):
        ptx.cp_async_wait_group(int32(x[0]))

    signature = types.void(array(types.float32))
    for kernel, message in (
        (tuple_length, "u32 x 4"),
        (float_address, "argument 'address' is float32, expected u32"),
        (variable_literal, "known at compile time"),
    ):
        with pytest.raises(Exception, match=message):
            compile_ptx(kernel, signature, (9, 0))


# assemble.py

REPORT = """
ptxas info    : Compiling entry function 'k' for 'sm_90'
ptxas info    : Function properties for k
    32 bytes stack frame, 28 bytes spill stores, 24 bytes spill loads
ptxas info    : Used 168 registers, used 2 barriers, 32 bytes cumulative stack size, 1024 bytes smem
"""


def test_report_of_ptxas():
    assert parse_resources(REPORT) == Resources(168, 1024, 28, 24, 32, 2)


def test_missing_ptxas_says_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("CUDA_HOME", str(tmp_path))
    monkeypatch.delenv("CUDA_PATH", raising=False)
    with pytest.raises(FileNotFoundError, match="pip install nvidia-cuda-nvcc"):
        assemble("", (9, 0))


@needs_ptxas
def test_newer_ptx_than_ptxas_is_explained():
    text = ".version 99.9\n.target sm_90\n.address_size 64\n"
    with pytest.raises(RuntimeError, match=r"version 99.9, newer(.|\n)*same release"):
        assemble(text, (9, 0))


@needs_ptxas
def test_resources_of_a_kernel():
    def kernel(x):
        s = cuda.shared.array(256, float32)
        s[cuda.threadIdx.x] = x[cuda.threadIdx.x]
        cuda.syncthreads()
        x[cuda.threadIdx.x] = s[255 - cuda.threadIdx.x]

    text = compile_ptx(kernel, types.void(array(types.float32)), (9, 0), launch_bounds=256)
    used = assemble(text, (9, 0))
    assert used.shared_bytes == 1024
    assert used.barriers == 1
    assert used.spill_stores == used.spill_loads == 0


# Conversions

floats = st.floats(width=32, allow_nan=True, allow_infinity=True, allow_subnormal=True)
ties = st.integers(0, 0xFFFF).map(
    lambda high: np.uint32(high << 16 | 0x8000).view(np.float32).item()
)


def same_bits(got, expected):
    """Equal, except that NaN has many patterns."""
    got, expected = np.asarray(got), np.asarray(expected)
    nan = np.isnan(expected.astype(np.float64))
    assert np.isnan(got[nan].astype(np.float64)).all()
    assert (got[~nan].view(np.uint16) == expected[~nan].view(np.uint16)).all()


@given(st.lists(floats | ties, min_size=1))
@example([0.0, -0.0, np.inf, -np.inf, np.nan, 1e-45, -1e-40, 3.4028235e38, 65520.0, 65519.9, 6e-8])
@settings(deadline=None)
def test_rounding_to_sixteen_bits(values):
    values = np.array(values, np.float32)
    bits = formats.f32_to_bf16(values).view(ml_dtypes.bfloat16)
    same_bits(bits, values.astype(ml_dtypes.bfloat16))
    with np.errstate(over="ignore"):
        same_bits(formats.f32_to_f16(values).view(np.float16), values.astype(np.float16))


def test_widening_of_all_sixteen_bit_values():
    bits = np.arange(65536).astype(np.uint16)
    expected = bits.view(ml_dtypes.bfloat16).astype(np.float32)
    np.testing.assert_array_equal(formats.bf16_to_f32(bits), expected)
    np.testing.assert_array_equal(formats.f16_to_f32(bits), bits.view(np.float16).astype("f4"))


@given(floats)
@example(1 + 2**-11)
@example(-(1 + 2**-11))
@settings(deadline=None)
def test_rounding_to_tf32(value):
    got = formats.f32_to_tf32(value).view(np.float32).astype(np.float64)
    if not np.isfinite(value):
        np.testing.assert_array_equal(got, value)
        return
    mantissa, exponent = np.frexp(np.float64(value))
    exponent = max(exponent, -125)  # subnormal: the spacing stays
    unit = 2.0 ** (exponent - 11)
    expected = np.copysign(np.floor(abs(value) / unit + 0.5) * unit, value)
    assert got == expected or (np.isinf(got) and abs(expected) >= 2.0**128), mantissa


@launches
def test_conversions_as_a_kernel_calls_them(launch):
    def kernel(x, out, bits):
        low, high = x[0], x[1]
        bits[0] = ptx.f32_to_bf16(low)
        bits[1] = ptx.f32_to_f16(low)
        bits[2] = ptx.f32x2_to_bf16x2(low, high)
        bits[3] = ptx.f32x2_to_f16x2(low, high)
        bits[4] = ptx.f32_to_tf32(low)
        bits[5] = ptx.f32_bits(low)
        out[0] = ptx.bf16_to_f32(uint16(bits[0]))
        out[1] = ptx.f16_to_f32(uint16(bits[1]))
        pair = ptx.bf16x2_to_f32x2(bits[2])
        out[2], out[3] = pair[0], pair[1]
        pair = ptx.f16x2_to_f32x2(bits[3])
        out[4], out[5] = pair[0], pair[1]
        out[6] = ptx.bits_f32(bits[5])
        out[7] = ptx.tanh_approx(low)
        out[8] = ptx.ex2_approx(high)
        out[9] = ptx.lg2_approx(high)
        out[10] = ptx.rcp_approx(high)

    x = np.array([0.3, 2.5], np.float32)
    out, bits = np.zeros(11, np.float32), np.zeros(6, np.uint32)
    launch(kernel, 1)(x, out, bits)
    bf16, f16 = x.astype(ml_dtypes.bfloat16), x.astype(np.float16)
    words = [bf16[0].view(np.uint16), f16[0].view(np.uint16)]
    words += [bf16.view(np.uint32)[0], f16.view(np.uint32)[0]]
    assert bits[:4].tolist() == [int(word) for word in words]
    assert bits[4] == 0x3E99A000  # 0.3 = 0x3e99999a, 13 bits rounded
    assert bits[5] == x.view(np.uint32)[0]
    expected = [*bf16[:1], *f16[:1], *bf16, *f16, x[0]]
    assert out[:7].tolist() == [float(value) for value in expected]
    fast = [np.tanh(x[0]), np.exp2(x[1]), np.log2(x[1]), 1 / x[1]]
    np.testing.assert_allclose(out[7:8], fast[:1], rtol=2**-10)  # tanh.approx on hardware
    np.testing.assert_allclose(out[8:], fast[1:], rtol=1e-6)


# Loads and stores: what goes in comes out, by every form and space


@pytest.mark.parametrize("space", ["shared", "cluster", "global", "global_cg"])
@launches
def test_loads_and_stores_of_every_form(space, launch):
    loads = {n: b for n, b in ptx.BLOCKS.items() if n.startswith(f"ld_{space}_")}
    pairs = [
        (b, ptx.BLOCKS["st" + n[2:]])
        for n, b in loads.items()
        if "st" + n[2:] in ptx.BLOCKS
        and (space != "global" or ("_nc_" not in n and "_cg_" not in n))
    ]
    assert len(pairs) >= 2

    for load, store in pairs:
        x = np.arange(1, 9, dtype=np.uint32) * 0x01010101
        launch(copy_by(load, store, space), 1)(x)
        assert (x[4:] == x[:4]).all(), load.block.name


def copy_by(load, store, space):
    """The second half of x becomes the first, through one kind of load and store."""
    registers = load.block.result
    size = int(registers.kind[1:]) // 8 * max(registers.count, 1)

    def through_global(x):
        base = ptx.global_address(x)
        for byte in range(0, 16, size):
            store(ptx.global_at(base, 16 + byte), load(ptx.global_at(base, byte)))

    def through_shared(x):
        shared = cuda.shared.array(8, uint32)
        base = ptx.shared_address(shared)
        if space == "cluster":
            base = ptx.mapa(base, ptx.cluster_rank())
        for i in range(4):
            shared[i] = x[i]
        for byte in range(0, 16, size):
            store(ptx.shared_at(base, 16 + byte), load(ptx.shared_at(base, byte)))
        for i in range(4):
            x[4 + i] = shared[4 + i]

    return through_global if space.startswith("global") else through_shared


@launches
def test_cp_async_forms_and_zero_fill(launch):
    def kernel(x, y):
        s = cuda.shared.array(16, uint32)
        base, source = ptx.shared_address(s), ptx.global_address(x)
        ptx.cp_async_ca_4(base, source)
        ptx.cp_async_ca_8(ptx.shared_at(base, 8), ptx.global_at(source, 8))
        ptx.cp_async_commit()
        ptx.cp_async_ca_16(ptx.shared_at(base, 16), ptx.global_at(source, 16))
        ptx.cp_async_cg_16_fill(ptx.shared_at(base, 32), ptx.global_at(source, 32), 4)
        ptx.cp_async_commit()
        ptx.cp_async_cg_16(ptx.shared_at(base, 48), ptx.global_at(source, 48))
        ptx.cp_async_commit()
        ptx.cp_async_wait_group(2)
        y[0], y[2], y[3] = s[0], s[2], s[3]
        ptx.cp_async_wait_group(1)
        for i in range(4, 12):
            y[i] = s[i]
        ptx.cp_async_wait_all()
        for i in range(12, 16):
            y[i] = s[i]

    x, y = np.arange(1, 17, dtype=np.uint32), np.zeros(16, np.uint32)
    launch(kernel, 1)(x, y)
    expected = x.copy()
    expected[[1, 9, 10, 11]] = 0
    assert y.tolist() == expected.tolist()


# Warp operations


def ldmatrix_kernel(block, transposed):
    count = block.block.result.count or 1

    def kernel(x, y):
        lane = int32(cuda.threadIdx.x)
        s = cuda.shared.array((32, 8), uint16)
        for j in range(8):
            s[lane, j] = x[lane, j]
        cuda.syncwarp()
        base = ptx.shared_address(s)
        words = block(ptx.shared_at(base, 16 * (lane % (8 * count))))
        for i in range(count):
            y[i, lane] = words[i] if count > 1 else words

    def expected(x):
        matrices = x.reshape(4, 8, 8)[:count]
        if transposed:
            matrices = matrices.transpose(0, 2, 1)
        # Lane 4 row + pair holds the values 2 pair and 2 pair + 1 of its row.
        return np.ascontiguousarray(matrices).view(np.uint32).reshape(count, 32)

    return kernel, expected, count


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("count", [1, 2, 4])
@launches
def test_ldmatrix(count, transposed, launch):
    block = ptx.BLOCKS[f"ldmatrix_x{count}" + ("_trans" if transposed else "")]
    kernel, expected, count = ldmatrix_kernel(block, transposed)
    x = np.arange(256, dtype=np.uint16).reshape(32, 8)
    y = np.zeros((count, 32), np.uint32)
    launch(kernel, 32)(x, y)
    assert (y == expected(x)).all()


def mma_kernel(dtype):
    """D = A B + C with fragments loaded as the manual documents them, from row-major matrices."""
    mma = ptx.BLOCKS[f"mma_{dtype}"]

    def kernel(a, b, c, d):  # a: [16, 8 words], b: [8 columns, 8 words], words of 32 bits
        lane = int32(cuda.threadIdx.x)
        g, q = lane >> 2, lane & 3
        fa = (a[g, q], a[g + 8, q], a[g, q + 4], a[g + 8, q + 4])
        fb = (b[g, q], b[g, q + 4])
        fc = (c[g, 2 * q], c[g, 2 * q + 1], c[g + 8, 2 * q], c[g + 8, 2 * q + 1])
        fd = mma(fa, fb, fc)
        d[g, 2 * q], d[g, 2 * q + 1] = fd[0], fd[1]
        d[g + 8, 2 * q], d[g + 8, 2 * q + 1] = fd[2], fd[3]

    return kernel


@pytest.mark.parametrize("dtype", ["bf16", "f16", "tf32"])
@launches
def test_mma(dtype, launch):
    rng = np.random.default_rng(1)
    k = 8 if dtype == "tf32" else 16
    a, a_values = encode(rng.standard_normal((16, k)).astype(np.float32), dtype)
    b, b_values = encode(rng.standard_normal((8, k)).astype(np.float32), dtype)
    c = rng.standard_normal((16, 8)).astype(np.float32)
    d = np.full((16, 8), np.nan, np.float32)
    launch(mma_kernel(dtype), 32)(a, b, c, d)
    np.testing.assert_allclose(d, a_values @ b_values.T + c, rtol=1e-5, atol=1e-5)


@launches
def test_mma_f64(launch):
    def kernel(a, b, c, d):
        lane = int32(cuda.threadIdx.x)
        g, q = lane >> 2, lane & 3
        fd = ptx.mma_f64(a[g, q], b[q, g], (c[g, 2 * q], c[g, 2 * q + 1]))
        d[g, 2 * q], d[g, 2 * q + 1] = fd[0], fd[1]

    rng = np.random.default_rng(2)
    a, b, c = rng.standard_normal((8, 4)), rng.standard_normal((4, 8)), rng.standard_normal((8, 8))
    d = np.full((8, 8), np.nan)
    launch(kernel, 32)(a, b, c, d)
    np.testing.assert_allclose(d, a @ b + c, rtol=1e-14, atol=1e-14)


@launches
def test_votes(launch):
    def kernel(x, y):
        lane = int32(cuda.threadIdx.x)
        for row in range(3):
            y[row, lane] = ptx.vote_any(x[row, lane])

    x, y = np.zeros((3, 32), np.uint32), np.full((3, 32), 7, np.uint32)
    x[1, 30], x[2] = 0x80000000, 2
    launch(kernel, 32)(x, y)
    assert (y == [[0], [1], [1]]).all()


@launches
def test_shuffles(launch):
    def kernel(x, y, z):
        lane = int32(cuda.threadIdx.x)
        y[0, lane] = ptx.shfl_idx(0xFFFFFFFF, x[lane], 5)
        y[1, lane] = ptx.shfl_bfly(0xFFFFFFFF, x[lane], 3)
        y[2, lane] = ptx.shfl_down(0xFFFFFFFF, x[lane], 4)
        z[0, lane] = ptx.shfl_idx_f32(0xFFFFFFFF, float32(lane), lane + 1)
        z[1, lane] = ptx.shfl_bfly_f32(0xFFFFFFFF, float32(lane), 16)
        z[2, lane] = ptx.shfl_down_f32(0xFFFFFFFF, float32(lane), 31)
        if lane < 8:
            y[3, lane] = ptx.shfl_idx(0xFF, ptx.lane_id(), 7 - lane)

    lanes = np.arange(32)
    x = (100 + lanes).astype(np.uint32)
    y, z = np.zeros((4, 32), np.uint32), np.zeros((3, 32), np.float32)
    launch(kernel, 32)(x, y, z)
    assert (y[0] == 105).all()
    assert (y[1] == x[lanes ^ 3]).all()
    assert (y[2] == x[np.where(lanes < 28, lanes + 4, lanes)]).all()
    assert (y[3, :8] == np.arange(7, -1, -1)).all()
    assert (z[0] == (lanes + 1) % 32).all()
    assert (z[1] == lanes ^ 16).all()
    assert (z[2] == np.where(lanes == 0, 31, lanes)).all()
