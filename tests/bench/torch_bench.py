#!/usr/bin/python3
"""Calls PyTorch's batch normalization on the CPU for `bench --torch`, which says when:

    NxCxS direction threads dtype    prepare this case; the answer is "ready", or "none" where
                                     PyTorch has nothing for the type
    CALLS                            so many calls of it; the answer is the seconds that they took,
                                     and how many pages they faulted in

Lines of the standard input, each answered by one on the standard output, of which the first is
PyTorch's version.

The kernels are called as directly as Python can: no autograd, and the gradient by its own operator.
PyTorch allocates its results anew in every call; malloc is told to keep memory, so that this does
not cost fresh pages each time.
"""
import os
import resource
import sys
import time

# malloc reads them once, when the program starts.
KEEP_MEMORY = {"MALLOC_MMAP_THRESHOLD_": str(1 << 40), "MALLOC_TRIM_THRESHOLD_": str(1 << 40)}
if any(os.environ.get(name) != value for name, value in KEEP_MEMORY.items()):
    os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, **KEEP_MEMORY})

try:
    import torch
except ImportError as error:
    sys.exit(f"torch_bench.py: {error} (Debian's package is python3-torch, for /usr/bin/python3)")

EPS = 1e-5
MOMENTUM = 0.1  # PyTorch's: the weight of the new value
DTYPES = {"f32": torch.float32, "bf16": torch.bfloat16, "f16": torch.float16}


def prepare(name, direction, dtype):
    """Returns the call to time, None where there is none. N x D buffers are 2-dimensional, images
    N x C x S x 1; parameters and statistics are floats beside halves too."""
    n, c, s = map(int, name.split("x"))
    torch.manual_seed(n * c * s)
    sizes = (n, c) if s == 1 else (n, c, s, 1)
    x = torch.empty(sizes).uniform_(-1, 3).to(dtype)
    gamma, beta = torch.empty(c).uniform_(0.5, 1.5), torch.empty(c).uniform_(-1, 1)
    mean, var = torch.empty(c).uniform_(0.5, 1.5), torch.empty(c).uniform_(0.5, 1.5)

    def forward(training):
        return torch.native_batch_norm(x, gamma, beta, mean, var, training, MOMENTUM, EPS)

    try:
        forward(False)
    except RuntimeError as error:
        if "not implemented for" in str(error):
            return None
        raise
    if direction == "forward":
        return lambda: forward(True)
    if direction == "inference":
        return lambda: forward(False)
    dy = torch.empty(sizes).uniform_(-1, 1).to(dtype)
    _, saved_mean, saved_invstd = forward(True)
    operator = torch.ops.aten.native_batch_norm_backward.default
    return lambda: operator(dy, x, gamma, mean, var, saved_mean, saved_invstd, True, EPS,
                            [True, True, True])


def sample(call, calls):
    """Returns the seconds that so many calls take, and the pages that they fault in."""
    faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    start = time.perf_counter()
    for _ in range(calls):
        call()
    seconds = time.perf_counter() - start
    return seconds, resource.getrusage(resource.RUSAGE_SELF).ru_minflt - faults


def main():
    torch.set_grad_enabled(False)
    print(f"PyTorch {torch.__version__}", flush=True)
    call = None
    for line in sys.stdin:
        request = line.split()
        if len(request) == 4:
            call = None  # its memory is free before more is taken
            torch.set_num_threads(int(request[2]))
            call = prepare(request[0], request[1], DTYPES[request[3]])
            print("ready" if call else "none", flush=True)
        else:
            print("%.9f %d" % sample(call, int(request[0])), flush=True)


if __name__ == "__main__":
    main()
