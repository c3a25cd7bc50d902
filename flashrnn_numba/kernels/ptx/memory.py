"""Addresses, typed loads and stores by address, and cp.async.

A shared address is 32 bits: an offset into the block's own window, and at the same time a
shared::cluster address of this block; `mapa` turns it into another block's. A global address is 64
bits. Every access is aligned to its whole size, 16 bytes for v4_u32. The names say all:
ld_<space>_<form>, with the spaces

    shared          the block's own shared memory             address: u32
    cluster         shared memory of any block of the cluster address: u32 from mapa (sm_90)
    global          address: u64
    global_nc       global memory that nobody writes during the launch (texture path)
    global_cg       past L1, so that another block's writes are seen after a barrier

PTX ISA, "Data Movement and Conversion Instructions": ld, ld.global.nc, st, cp.async, cvta.
"""

from typing import Annotated, Any

from .asm import (
    BLOCKS,
    I32,
    U32,
    U64,
    Literal,
    Registers,
    U32x4,
    asm,
    emitted,
    instruction,
)

# form: (PTX suffix, registers, struct format of the bytes)
_FORMS = {
    "u16": ("u16", Registers("u16"), "<H"),
    "u32": ("u32", Registers("u32"), "<I"),
    "u64": ("u64", Registers("u64"), "<Q"),
    "f32": ("f32", Registers("f32"), "<f"),
    "f64": ("f64", Registers("f64"), "<d"),
    "v2_u32": ("v2.u32", Registers("u32", 2), "<2I"),
    "v4_u32": ("v4.u32", Registers("u32", 4), "<4I"),
    "v2_f32": ("v2.f32", Registers("f32", 2), "<2f"),
    "v4_f32": ("v4.f32", Registers("f32", 4), "<4f"),
    "v2_u64": ("v2.u64", Registers("u64", 2), "<2Q"),
    "v2_f64": ("v2.f64", Registers("f64", 2), "<2d"),
}
# space: (PTX state space and cache operator, type of an address, first architecture)
_SPACES = {
    "shared": ("shared", U32, 80),
    "cluster": ("shared::cluster", U32, 90),
    "global": ("global", U64, 80),
    "global_nc": ("global.nc", U64, 80),
    "global_cg": ("global.cg", U64, 80),
}


def _load(space: str, form: str) -> Any:
    ptx_space, address_type, since = _SPACES[space]
    suffix, registers, layout = _FORMS[form]

    def twin(t: Any, address: int) -> Any:
        values = t.load(space, address, layout)
        return values if registers.count else values[0]

    twin.__name__ = f"ld_{space}_{form}"
    twin.__doc__ = f"Load {registers} from {space} memory at a byte address."
    twin.__annotations__ = {"address": address_type, "return": Annotated[Any, registers]}
    text = f"ld.{ptx_space}.{suffix} {{out}}, [{{address}}];"
    return instruction(text, section="ld", since=since)(twin)


def _store(space: str, form: str) -> Any:
    ptx_space, address_type, since = _SPACES[space]
    suffix, registers, layout = _FORMS[form]

    def twin(t: Any, address: int, value: Any) -> None:
        t.store(space, address, layout, value if registers.count else (value,))

    twin.__name__ = f"st_{space}_{form}"
    twin.__doc__ = f"Store {registers} to {space} memory at a byte address."
    value_type = Annotated[Any, registers]
    twin.__annotations__ = {"address": address_type, "value": value_type, "return": None}
    text = f"st.{ptx_space}.{suffix} [{{address}}], {{value}};"
    return instruction(text, section="st", since=since)(twin)


ld_shared_u16 = _load("shared", "u16")
ld_shared_u32 = _load("shared", "u32")
ld_shared_u64 = _load("shared", "u64")
ld_shared_f32 = _load("shared", "f32")
ld_shared_f64 = _load("shared", "f64")
ld_shared_v2_u32 = _load("shared", "v2_u32")
ld_shared_v4_u32 = _load("shared", "v4_u32")
ld_shared_v2_f32 = _load("shared", "v2_f32")
ld_shared_v4_f32 = _load("shared", "v4_f32")
ld_shared_v2_u64 = _load("shared", "v2_u64")
ld_shared_v2_f64 = _load("shared", "v2_f64")

ld_cluster_u16 = _load("cluster", "u16")
ld_cluster_u32 = _load("cluster", "u32")
ld_cluster_u64 = _load("cluster", "u64")
ld_cluster_f32 = _load("cluster", "f32")
ld_cluster_v2_f32 = _load("cluster", "v2_f32")
ld_cluster_v4_u32 = _load("cluster", "v4_u32")
ld_cluster_v4_f32 = _load("cluster", "v4_f32")

ld_global_u16 = _load("global", "u16")
ld_global_u32 = _load("global", "u32")
ld_global_u64 = _load("global", "u64")
ld_global_f32 = _load("global", "f32")
ld_global_f64 = _load("global", "f64")
ld_global_v2_u32 = _load("global", "v2_u32")
ld_global_v4_u32 = _load("global", "v4_u32")
ld_global_v2_f32 = _load("global", "v2_f32")
ld_global_v4_f32 = _load("global", "v4_f32")

ld_global_nc_u16 = _load("global_nc", "u16")
ld_global_nc_u32 = _load("global_nc", "u32")
ld_global_nc_u64 = _load("global_nc", "u64")
ld_global_nc_f32 = _load("global_nc", "f32")
ld_global_nc_f64 = _load("global_nc", "f64")
ld_global_nc_v2_u32 = _load("global_nc", "v2_u32")
ld_global_nc_v4_u32 = _load("global_nc", "v4_u32")
ld_global_nc_v2_f32 = _load("global_nc", "v2_f32")
ld_global_nc_v4_f32 = _load("global_nc", "v4_f32")

ld_global_cg_u32 = _load("global_cg", "u32")
ld_global_cg_u64 = _load("global_cg", "u64")
ld_global_cg_f32 = _load("global_cg", "f32")
ld_global_cg_v2_u32 = _load("global_cg", "v2_u32")
ld_global_cg_v4_u32 = _load("global_cg", "v4_u32")
ld_global_cg_v4_f32 = _load("global_cg", "v4_f32")

st_shared_u16 = _store("shared", "u16")
st_shared_u32 = _store("shared", "u32")
st_shared_u64 = _store("shared", "u64")
st_shared_f32 = _store("shared", "f32")
st_shared_f64 = _store("shared", "f64")
st_shared_v2_u32 = _store("shared", "v2_u32")
st_shared_v4_u32 = _store("shared", "v4_u32")
st_shared_v2_f32 = _store("shared", "v2_f32")
st_shared_v4_f32 = _store("shared", "v4_f32")
st_shared_v2_u64 = _store("shared", "v2_u64")
st_shared_v2_f64 = _store("shared", "v2_f64")

st_cluster_u16 = _store("cluster", "u16")
st_cluster_u32 = _store("cluster", "u32")
st_cluster_u64 = _store("cluster", "u64")
st_cluster_f32 = _store("cluster", "f32")
st_cluster_v2_f32 = _store("cluster", "v2_f32")
st_cluster_v4_u32 = _store("cluster", "v4_u32")
st_cluster_v4_f32 = _store("cluster", "v4_f32")

st_global_u16 = _store("global", "u16")
st_global_u32 = _store("global", "u32")
st_global_u64 = _store("global", "u64")
st_global_f32 = _store("global", "f32")
st_global_f64 = _store("global", "f64")
st_global_v2_u32 = _store("global", "v2_u32")
st_global_v4_u32 = _store("global", "v4_u32")
st_global_v2_f32 = _store("global", "v2_f32")
st_global_v4_f32 = _store("global", "v4_f32")
st_global_cg_u32 = _store("global_cg", "u32")
st_global_cg_v4_u32 = _store("global_cg", "v4_u32")


def _emit_shared_address(builder: Any, operands: dict[str, list[Any]]) -> list[Any]:
    text = "{ .reg .u64 t; cvta.to.shared.u64 t, $1; cvt.u32.u64 $0, t; }"
    return asm(builder, text, ["u32"], [("u64", operands["array"][0])], "none")


shared_address = emitted(
    "shared_address",
    {"array": Registers("array")},
    Registers("u32"),
    _emit_shared_address,
    lambda t, array: t.shared_address(array),
    section="cvta",
    doc="Address of the first element of a shared array.",
)
global_address = emitted(
    "global_address",
    {"array": Registers("array")},
    Registers("u64"),
    lambda builder, operands: operands["array"],
    lambda t, array: t.global_address(array),
    section="Generic Addressing",
    doc="Address of the first element of a global array (generic = global on every GPU).",
)
shared_at = emitted(
    "shared_at",
    {"address": Registers("u32"), "offset": Registers("i32")},
    Registers("u32"),
    lambda builder, operands: [builder.add(operands["address"][0], operands["offset"][0])],
    lambda t, address, offset: address + offset,
    section="add",
    doc="shared address + bytes in 32 bits (Numba's own + would widen both to 64).",
)
global_at = emitted(
    "global_at",
    {"address": Registers("u64"), "offset": Registers("i64")},
    Registers("u64"),
    lambda builder, operands: [builder.add(operands["address"][0], operands["offset"][0])],
    lambda t, address, offset: address + offset,
    section="add",
    doc="global address + bytes.",
)
BLOCKS.update({block.block.name: block for block in (shared_address, global_address)})
BLOCKS.update({block.block.name: block for block in (shared_at, global_at)})


@instruction("mad.wide.s32 {out}, {index}, {size}, {base};", section="mad", effects="none")
def global_index(t: Any, base: U64, index: I32, size: Literal) -> U64:
    """base + index * size. The compiler does not see through it, so that it keeps one base and
    32-bit indices in registers, and not each of the addresses."""
    return base + index * size


@instruction("prefetch.global.L2 [{address}];", section="prefetch", effects="order")
def prefetch_l2(t: Any, address: U64) -> None:
    """Bring the line at a global address into L2."""


# cp.async: global -> shared without passing through registers. The bytes may be read by the issuing
# thread after cp_async_wait_group, by others after that and a barrier.


@instruction("cp.async.ca.shared.global [{target}], [{source}], 4;", section="cp.async")
def cp_async_ca_4(t: Any, target: U32, source: U64) -> None:
    t.cp_async(target, source, 4, 4)


@instruction("cp.async.ca.shared.global [{target}], [{source}], 8;", section="cp.async")
def cp_async_ca_8(t: Any, target: U32, source: U64) -> None:
    t.cp_async(target, source, 8, 8)


@instruction("cp.async.ca.shared.global [{target}], [{source}], 16;", section="cp.async")
def cp_async_ca_16(t: Any, target: U32, source: U64) -> None:
    t.cp_async(target, source, 16, 16)


@instruction("cp.async.cg.shared.global [{target}], [{source}], 16;", section="cp.async")
def cp_async_cg_16(t: Any, target: U32, source: U64) -> None:
    """16 bytes past L1."""
    t.cp_async(target, source, 16, 16)


# ptxas 13.0 assembles cp.async with a cache hint wrongly (an illegal instruction) where it finds
# the target to be a sum with a uniform register: it cannot see that this `and` changes nothing.
_WITHIN = ".reg .b32 a; and.b32 a, {target}, 0x3ffff; "  # an SM has less than 256 KiB

_ONCE = "{{ .reg .b64 p; createpolicy.fractional.L2::evict_first.b64 p, 1.0; "


@instruction(
    _ONCE + _WITHIN + "cp.async.cg.shared.global.L2::cache_hint [a], [{source}], 16, p; }}",
    section="cp.async",
)
def cp_async_cg_16_once(t: Any, target: U32, source: U64) -> None:
    """16 bytes past L1, which need not stay in L2."""
    t.cp_async(target, source, 16, 16)


@instruction(_ONCE + "st.global.L2::cache_hint.v4.u32 [{address}], {value}, p; }}", section="st")
def st_global_v4_u32_once(t: Any, address: U64, value: U32x4) -> None:
    """16 bytes that need not stay in L2."""
    t.store("global", address, "<4I", value)


@instruction("cp.async.cg.shared.global [{target}], [{source}], 16, {valid};", section="cp.async")
def cp_async_cg_16_fill(t: Any, target: U32, source: U64, valid: U32) -> None:
    """The first `valid` bytes (0 to 16) are copied, the rest of the 16 become zero."""
    t.cp_async(target, source, 16, valid)


@instruction("cp.async.commit_group;", section="cp.async.commit_group")
def cp_async_commit(t: Any) -> None:
    t.cp_async_commit()


@instruction("cp.async.wait_group {pending};", section="cp.async.wait_group")
def cp_async_wait_group(t: Any, pending: Literal) -> None:
    """Wait until at most `pending` (a constant) of this thread's latest groups are under way."""
    t.cp_async_wait(pending)


@instruction("cp.async.wait_all;", section="cp.async.wait_all")
def cp_async_wait_all(t: Any) -> None:
    t.cp_async_commit()
    t.cp_async_wait(0)
