"""One line for bad input and for want of memory."""

import cv2
import numpy as np
import pytest
import torch

from segsr_model.errors import CommandError, in_memory, not_there, out_of_memory


@pytest.mark.parametrize('error', [
    MemoryError(), MemoryError('Unable to allocate 8 EiB'),
    torch.cuda.OutOfMemoryError('CUDA out of memory. Tried to allocate 2.00 GiB'),
    RuntimeError("[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: you tried"),
    RuntimeError('DefaultCPUAllocator: not enough memory: you tried to allocate 1152000000 bytes.'),
    RuntimeError('cuDNN error: CUDNN_STATUS_ALLOC_FAILED'), RuntimeError('could not create a primitive'),
    cv2.error("OpenCV(4.9) alloc.cpp:73: error: (-4:Insufficient memory) Failed to allocate 9 bytes in function 'x'"),
    OSError(12, 'Cannot allocate memory')])
def test_the_want_of_memory_is_known_whoever_says_it(error):
    assert out_of_memory(error)
    with pytest.raises(CommandError, match=r"^'scene\.png' \(9 x 9\) does not fit into memory; cut it$"), \
            in_memory("'scene.png' (9 x 9)", 'cut it'):
        raise error


@pytest.mark.parametrize('error', [RuntimeError('CUDA error: an illegal memory access was encountered'),
                                   ValueError('size mismatch'), OSError(28, 'No space left on device'), SystemExit()])
def test_other_errors_are_none(error):
    assert not out_of_memory(error)
    with pytest.raises(type(error)), in_memory('x', 'y'):
        raise error


def test_memory_that_really_lacks():
    with pytest.raises(CommandError, match='the tensor does not fit into memory'), in_memory('the tensor', 'none'):
        torch.empty(1 << 60, dtype=torch.uint8)
    with pytest.raises(CommandError, match='the array does not fit into memory'), in_memory('the array', 'none'):
        np.zeros(1 << 60, np.uint8)


def test_a_package_that_is_half_there_is_one_line():
    said = not_there(ImportError('libGL.so.1: cannot open shared object file\nsecond line'))
    assert said == ('a package is missing, or cannot be loaded: libGL.so.1: cannot open shared object file; README.md, '
                    'under Installing, tells what is needed')
