"""Device functions of the tensor-core backward kernel: a pair's inputs through the ring.

Each thread copies what it will need into its own words of shared memory, AHEAD steps before it does
(`fetch_pair`), and reads them there (`read_pair`). They are functions, not parts of the kernel,
because it calls them in several places: what is written out, Numba compiles again each time.

ring4, ring8, gate_ring -- this thread's first word of the pair's place of a step, for values of 4
and of 8 bytes, and for its gates, GATE_CHUNK at a time. beside -- elements from the pair's first
unit, for each of its items. A pair's inputs are INPUTS numbers of each item: gates, states before
the step, gradients of the states from outside.
"""
# mypy: ignore-errors
# ruff: noqa: B007, F821, F841

from __future__ import annotations


def fetch_pair(
    ring4,
    ring8,
    gate_ring,
    later,  # whether there is a step before: its states are wanted, or the initial ones
    gates_in,
    s0_in,
    others_in,
    state_index,
    d_in,
    d_index,
    d_strides,
    shift,
    beside,
    line,
    unit,
    row0,
    head,
    initial,
    initial_strides,
    options,
):
    for i in unroll(EACH * GATES // GATE_CHUNK):
        if EACH == 2 and WIDE == 0:
            # where there is no second unit the first one's are copied
            first = int32(
                (state_index + beside[i * GATE_CHUNK // GATES]) * GATES + i * GATE_CHUNK % GATES
            )
        else:
            first = int32(state_index * GATES + i * GATE_CHUNK)
        copy_gates(shared_at(gate_ring, i * (4 * GATE_CHUNK * OWNERS)), first)
    if later:
        copy_number(SIZE, s0_in, state_index, S0_AT)
        for k in unroll(STATES - 1):
            copy_number(4, others_in[k + 1], state_index, OTHER_AT + k * OTHER_SLOT * OWNERS)
    else:
        start_numbers()
    if options & HAS_DSTATES:
        if options & D_WORDS:
            for k in unroll(STATES):
                copy_number(SIZE, d_in[k], d_index, D_AT + k * NUMBER_SLOT * OWNERS)
        else:
            for e in unroll(EACH):
                at = int32(d_index + beside[e] * int32(d_strides[4]))
                for k in unroll(STATES):
                    copy_item(d_in[k], at, D_AT + k * NUMBER_SLOT * OWNERS, e)


def read_pair(ring4, ring8, gate_ring, shift):
    seen = names(EACH * INPUTS)
    for i in unroll(EACH * GATES // GATE_CHUNK):
        read_gates(shared_at(gate_ring, i * (4 * GATE_CHUNK * OWNERS)))
        for c in unroll(GATE_CHUNK):
            put_gate(i * GATE_CHUNK + c, c)
    for k in unroll(STATES):
        if k == 0:
            read_numbers(SIZE, S0_AT)
        else:
            read_numbers(4, OTHER_AT + (k - 1) * OTHER_SLOT * OWNERS)
        for e in unroll(EACH):
            seen[e * INPUTS + GATES + k] = numbers[e]
        read_numbers(SIZE, D_AT + k * NUMBER_SLOT * OWNERS)
        for e in unroll(EACH):
            seen[e * INPUTS + GATES + STATES + k] = numbers[e]
    return tuple_of(seen, 0, EACH * INPUTS)


def nothing_seen():
    """What a pair that is not there has for its inputs."""
    seen = cuda.local.array(EACH * INPUTS, float32)
    return tuple_of(seen, 0, EACH * INPUTS)


def begin_again(before, restart, beside, line, unit, row0, head, initial, initial_strides, options):
    """A pair's inputs with the initial states in place of those before the step, where a reset
    says so."""
    seen = names(EACH * INPUTS)
    for n in unroll(EACH * INPUTS):
        seen[n] = before[n]
    if restart != int32(0):
        find_again()
        for e in unroll(EACH):
            for k in unroll(STATES):
                start_value(e, k)
                seen[e * INPUTS + GATES + k] = value
    return tuple_of(seen, 0, EACH * INPUTS)


def early_pair(seen):
    """The early half of the cell's vector-Jacobian product, for each item of a pair."""
    half = names(EACH)
    for e in unroll(EACH):
        cell_early()
    return tuple_of(half, 0, EACH)


# parts of them ----------------------------------------------------------------------------------


def copy_gates(to, first) -> None:
    if GATE_CHUNK == 4:
        cp_async_ca_16(to, global_index(gates_in, first, 4))
    elif GATE_CHUNK == 2:
        cp_async_ca_8(to, global_index(gates_in, first, 4))
    else:
        cp_async_ca_4(to, global_index(gates_in, first, 4))


def copy_number(size, base, index, place) -> None:
    """The pair's numbers of `size` bytes at base[index], to their place in the ring."""
    if size == 4:
        if WIDE:
            cp_async_ca_8(shared_at(ring8, place), global_index(base, index, 4))
        elif EACH == 2:
            for e in unroll(2):
                cp_async_ca_4(
                    shared_at(ring8, place + 4 * e),
                    global_index(base, int32(index + beside[e]), 4),
                )
        else:
            cp_async_ca_4(shared_at(ring4, place), global_index(base, index, 4))
    elif D % 2 == 0:
        # the word that the number is in
        cp_async_ca_4(shared_at(ring4, place), global_index(base, int32(index - (shift >> 4)), 2))
    else:
        for e in unroll(EACH):
            at = int32(index + beside[e])
            store_half(place, e, ld_global_nc_u16(global_index(base, at, 2)))


def store_half(place, e, number) -> None:
    """A 16-bit number of item e, to where `read_numbers` finds it."""
    st_shared_u16(shared_at(ring4, place + 2 * e + (shift >> 3)), number)


def store_float(place, e, number) -> None:
    """A float32 of item e, likewise."""
    st_shared_f32(shared_at(ring8 if EACH == 2 else ring4, place + 4 * e), number)


def find_again() -> None:
    """Where the pair lies, as values that the compiler does not know: addresses made of them cannot
    stay in registers for all steps."""
    row_again = row0 + int32(held_u32(uint32(line)))
    unit_again = int32(held_u32(uint32(unit)))


def start_value(e, k) -> None:
    """value = initial state k of item e, after find_again."""
    value = state_or(
        # s_0 feeds R and has the dtype of the arrays
        real(INITIAL[k]) if k > 0 else widen(narrow(float32(INITIAL[0]))),
        options & HAS_STATES,
        initial,
        initial_strides,
        k,
        row_again,
        head,
        unit_again + beside[e],
    )


def start_numbers() -> None:
    """The initial states in place of those of the step before."""
    find_again()
    for e in unroll(EACH):
        for k in unroll(STATES):
            start_value(e, k)
            if k == 0:
                store_value(S0_AT, e)
            else:
                store_float(OTHER_AT + (k - 1) * OTHER_SLOT * OWNERS, e, value)


def read_gates(place) -> None:
    """some = what copy_gates brought there."""
    if GATE_CHUNK == 4:
        some = ld_shared_v4_f32(place)
    elif GATE_CHUNK == 2:
        some = ld_shared_v2_f32(place)
    else:
        some = (ld_shared_f32(place),)


def put_gate(n, c) -> None:
    """The pair's gate n, which is some[c]."""
    seen[(n) // GATES * INPUTS + (n) % GATES] = some[c]


def read_numbers(size, place) -> None:
    """numbers = what copy_number brought for the pair's items."""
    if size == 4:
        if EACH == 2:
            numbers = ld_shared_v2_f32(shared_at(ring8, place))
        else:
            numbers = (ld_shared_f32(shared_at(ring4, place)),)
    else:
        word = ld_shared_u32(shared_at(ring4, place))
        if EACH == 2:
            numbers = unpack(word)
        else:
            numbers = (widen(uint16(word >> uint32(shift))),)
