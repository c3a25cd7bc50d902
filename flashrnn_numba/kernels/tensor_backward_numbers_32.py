"""Parts of the tensor-core backward kernel for float32 with products in TF32.

Gate gradients are rounded on their way to the product only.
"""
# mypy: ignore-errors
# ruff: noqa: F821, F841

from __future__ import annotations


def clear_pair(at) -> None:
    """Zeros for a pair's place in the ring; at -- from this thread's first word."""
    for e in unroll(EACH):
        store_float(at, e, real(0.0))


def copy_item(base, at, place, e) -> None:
    """The number at base[at], to item e's place in the ring."""
    cp_async_ca_4(
        shared_at(ring8 if EACH == 2 else ring4, place + 4 * e),
        global_index(base, at, 4),
    )


def store_value(place, e) -> None:
    """Likewise `value`."""
    store_float(place, e, value)


def store_previous() -> None:
    """s_0 before the step of the early half."""
    for p in unroll(PAIRS):
        if WIDE:
            if stored[p * 2] != 0:
                st_global_v2_f32(
                    global_index(previous_out, state_index[p], 4),
                    (seen[p][GATES], seen[p][INPUTS + GATES]),
                )
        else:
            for e in unroll(EACH):
                if stored[p * EACH + e] != 0:
                    st_global_f32(
                        global_index(previous_out, int32(state_index[p] + e), 4),
                        seen[p][e * INPUTS + GATES],
                    )
    previous_out = global_at(previous_out, -4 * state_step)


def pack_gates() -> None:
    """The item's gate gradients."""
    for j in unroll(GATES):
        bits[i * GATES + j] = whole[j]
        unrounded[i * GATES + j] = bits[i * GATES + j]


def store_operand() -> None:
    """The recurrent gates' gradients, rounded, for the product."""
    if ALL_ACTIVE or active[p] != 0:
        for j in unroll(GATES):
            if FROM_R[j] >= 0:
                at = shared_at(slot[p], tile + FROM_R[j] * (4 * K_UNITS))
                if EACH == 2:
                    st_shared_v2_u32(
                        at,
                        (
                            f32_to_tf32(bits[p * 2 * GATES + j]),
                            f32_to_tf32(bits[(p * 2 + 1) * GATES + j]),
                        ),
                    )
                else:
                    st_shared_u32(at, f32_to_tf32(bits[p * GATES + j]))


def store_gates() -> None:
    """Gate gradients of this step, to global memory."""
    for p in unroll(PAIRS):
        if WIDE:
            if stored[p * 2] != 0:
                for j in unroll(GATES):
                    st_global_v2_f32(
                        global_index(gates_out, int32(gate_index[p] + j * gate_pitch), 4),
                        (bits[p * 2 * GATES + j], bits[(p * 2 + 1) * GATES + j]),
                    )
        else:
            for e in unroll(EACH):
                if stored[p * EACH + e] != 0:
                    for j in unroll(GATES):
                        st_global_f32(
                            global_index(gates_out, int32(gate_index[p] + j * gate_pitch + e), 4),
                            bits[(p * EACH + e) * GATES + j],
                        )
    gates_out = global_at(gates_out, -4 * gate_step)
