"""Launches as the driver gets them: structures, parameters, streams; without a GPU."""

from __future__ import annotations

import ctypes
import sys
import threading
import time
from types import SimpleNamespace

import numpy as np
import pytest

from flashrnn_numba.kernels import driver
from flashrnn_numba.kernels.driver import Attribute, Config, Launch

TYPES = ("float32*", "int64x2", "float32", "uint16*", "float64", "int64")
CONSTANTS = ((7, -8), 0.1, 0.3, 1 << 40)
# what the driver reads of each parameter
FORMATS = ("u8", "i8", "i8", "f4", "u8", "f8", "i8")


@pytest.fixture
def drive(monkeypatch):
    """Notes each launch in place of the driver, and CuPy's stream."""
    stand_in = SimpleNamespace(status=0, wait=0.0, seen=[], stream=0, bound=[])

    def launched(config, kernel, parameters, extra):
        time.sleep(stand_in.wait)
        places = (ctypes.c_void_p * len(FORMATS)).from_address(parameters)
        values = [
            np.frombuffer(ctypes.string_at(at, int(f[1])), f)[0]
            for at, f in zip(places, FORMATS, strict=True)
        ]
        stand_in.seen.append((Config.from_buffer_copy(ctypes.string_at(config, 56)), values))
        assert (kernel, extra) == (0x1234, None)
        return stand_in.status

    signature = ctypes.CFUNCTYPE(ctypes.c_int, *(ctypes.c_void_p,) * 4)
    function = signature(launched)
    monkeypatch.setattr(driver, "launch_kernel", lambda: function)
    runtime = SimpleNamespace(getDevice=lambda: 3, setDevice=stand_in.bound.append)
    cuda = SimpleNamespace(
        runtime=runtime, get_current_stream=lambda: SimpleNamespace(ptr=stand_in.stream)
    )
    monkeypatch.setitem(sys.modules, "cupy", SimpleNamespace(cuda=cuda))
    return stand_in


def array(address):
    return SimpleNamespace(data=SimpleNamespace(ptr=address))


def launch(**options):
    return Launch(0x1234, (6, 2), 128, 4096, TYPES, CONSTANTS, RuntimeError, **options)


def test_parameters_grid_and_stream(drive):
    made = launch(cluster=2, cooperative=True)
    drive.stream = 0xABC
    made(array(1 << 40), None)
    drive.stream = 0
    made(array(16), array(32))
    (config, values), (second, others) = drive.seen
    assert values == [1 << 40, 7, -8, np.float32(0.1), 0, 0.3, 1 << 40]
    assert others == [16, 7, -8, np.float32(0.1), 32, 0.3, 1 << 40]
    assert (config.stream, second.stream) == (0xABC, None)
    assert [*config.grid, *config.block] == [6, 2, 1, 128, 1, 1]
    assert config.shared_bytes == 4096
    assert config.count == 2


def test_structures_are_those_of_the_driver(drive):
    """Byte by byte those that cuda.bindings fills in."""
    theirs = pytest.importorskip("cuda.bindings.driver")
    config = theirs.CUlaunchConfig()
    config.gridDimX, config.gridDimY, config.gridDimZ = 6, 2, 1
    config.blockDimX, config.blockDimY, config.blockDimZ = 128, 1, 1
    config.sharedMemBytes, config.hStream = 4096, 0xABC
    ids = theirs.CUlaunchAttributeID
    cluster, cooperative = theirs.CUlaunchAttribute(), theirs.CUlaunchAttribute()
    cluster.id = ids.CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION
    dimension = cluster.value.clusterDim
    dimension.x, dimension.y, dimension.z = 2, 1, 1
    cooperative.id = ids.CU_LAUNCH_ATTRIBUTE_COOPERATIVE
    cooperative.value.cooperative = 1
    config.attrs, config.numAttrs = [cluster, cooperative], 2
    drive.stream = 0xABC
    made = launch(cluster=2, cooperative=True)
    made(None, None)
    expected = Config.from_buffer_copy(ctypes.string_at(config.getPtr(), ctypes.sizeof(Config)))
    got = drive.seen[0][0]
    for name, _ in Config._fields_:
        if name != "attributes":
            a, b = getattr(got, name), getattr(expected, name)
            assert (a if isinstance(a, int) else list(a)) == (b if isinstance(b, int) else list(b))
    for i, attribute in enumerate((cluster, cooperative)):
        ours = ctypes.string_at(ctypes.addressof(got.attributes[i]), ctypes.sizeof(Attribute))
        assert ours == ctypes.string_at(attribute.getPtr(), ctypes.sizeof(Attribute))
        inside = ctypes.addressof(expected.attributes[i])
        assert ours == ctypes.string_at(inside, ctypes.sizeof(Attribute))


def test_an_event_for_when_all_blocks_have_begun(drive):
    """Of that launch only, and after the other attributes."""
    theirs = pytest.importorskip("cuda.bindings.driver")
    wanted = theirs.CUlaunchAttribute()
    wanted.id = theirs.CUlaunchAttributeID.CU_LAUNCH_ATTRIBUTE_LAUNCH_COMPLETION_EVENT
    event = (5 << 32) + 0xFFFFFFF7
    wanted.value.launchCompletionEvent.event = theirs.CUevent(event)
    made = launch(cluster=2)
    made(None, None, begun=SimpleNamespace(ptr=event))
    announced = drive.seen[0][0]
    assert (announced.count, announced.attributes[0].id) == (2, 4)
    ours = ctypes.string_at(ctypes.addressof(announced.attributes[1]), ctypes.sizeof(Attribute))
    assert ours == ctypes.string_at(wanted.getPtr(), ctypes.sizeof(Attribute))
    made(None, None)
    assert drive.seen[1][0].count == 1
    assert [driver.announces(version) for version in (12020, 12030, 13000)] == [False, True, True]


def test_a_status_is_an_exception_and_the_next_launch_goes_on(drive):
    made = launch()
    drive.status = 701
    with pytest.raises(RuntimeError, match="701"):
        made(None, None)
    drive.status = 0
    made(array(5), None)
    assert drive.seen[-1][1][0] == 5


def test_a_thread_that_has_not_used_the_device_binds_it(drive):
    drive.status = 201
    with pytest.raises(RuntimeError, match="201"):
        launch()(None, None)
    assert drive.bound == [3]
    assert len(drive.seen) == 2  # once more, then it is an error


def test_threads_do_not_share_what_they_write(drive):
    """All are inside the driver at once, each with its own pointers."""
    made, drive.wait = launch(), 0.05
    threads = [threading.Thread(target=made, args=(array(i), array(i + 100))) for i in range(1, 9)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(v[0] for _, v in drive.seen) == list(range(1, 9))
    assert all(v[4] == v[0] + 100 for _, v in drive.seen)
    drive.wait = 0
    for i in range(20):
        made(array(i), None)
    assert len(made._free) <= 8  # blocks are used again


def test_constants_must_be_as_many_as_the_signature_has(drive):
    with pytest.raises(ValueError, match="3 constants for the 4"):
        Launch(1, (1,), 32, 0, TYPES, CONSTANTS[:3], RuntimeError)
