"""Parts of the tensor-core backward kernel for numbers of 16 bits.

With WIDE two neighbouring units share a word of 32 bits.
"""
# mypy: ignore-errors
# ruff: noqa: F821, F841

from __future__ import annotations


def clear_pair(at) -> None:
    """Zeros for a pair's place in the ring; at -- from this thread's first word."""
    st_shared_u32(shared_at(ring4, at), uint32(0))


def copy_item(base, at, place, e) -> None:
    """The number at base[at], to item e's place in the ring."""
    store_half(place, e, ld_global_nc_u16(global_index(base, at, 2)))


def store_value(place, e) -> None:
    """Likewise `value`."""
    store_half(place, e, narrow(value))


def store_previous() -> None:
    """s_0 before the step of the early half."""
    for p in unroll(PAIRS):
        if WIDE:
            if stored[p * 2] != 0:
                st_global_u32(
                    global_index(previous_out, state_index[p], 2),
                    pack(seen[p][GATES], seen[p][INPUTS + GATES]),
                )
        else:
            for e in unroll(EACH):
                if stored[p * EACH + e] != 0:
                    st_global_u16(
                        global_index(previous_out, int32(state_index[p] + e), 2),
                        narrow(seen[p][e * INPUTS + GATES]),
                    )
    previous_out = global_at(previous_out, -2 * state_step)


def pack_gates() -> None:
    """The item's gate gradients in 16 bits; with WIDE pairs by the pair's second item."""
    for j in unroll(GATES):
        unrounded[i * GATES + j] = whole[j]
        if WIDE:
            if i % 2 == 1:
                bits[(i - 1) * GATES + j] = pack(unrounded[(i - 1) * GATES + j], whole[j])
        else:
            bits[i * GATES + j] = narrow(whole[j])


def store_operand() -> None:
    """The recurrent gates' gradients, for the product."""
    if ALL_ACTIVE or active[p] != 0:
        for j in unroll(GATES):
            if FROM_R[j] >= 0:
                if WIDE:
                    st_shared_u32(
                        shared_at(slot[p], tile + FROM_R[j] * (2 * K_UNITS)),
                        bits[p * 2 * GATES + j],
                    )
                else:
                    for e in unroll(EACH):
                        st_shared_u16(
                            shared_at(slot[p], tile + FROM_R[j] * (2 * K_UNITS) + 2 * e),
                            bits[(p * EACH + e) * GATES + j],
                        )


def store_gates() -> None:
    """Gate gradients of this step, to global memory."""
    for p in unroll(PAIRS):
        if WIDE:
            if stored[p * 2] != 0:
                for j in unroll(GATES):
                    st_global_u32(
                        global_index(gates_out, int32(gate_index[p] + j * gate_pitch), 2),
                        bits[p * 2 * GATES + j],
                    )
        else:
            for e in unroll(EACH):
                if stored[p * EACH + e] != 0:
                    for j in unroll(GATES):
                        st_global_u16(
                            global_index(gates_out, int32(gate_index[p] + j * gate_pitch + e), 2),
                            bits[(p * EACH + e) * GATES + j],
                        )
    gates_out = global_at(gates_out, -2 * gate_step)
