#!/usr/bin/python3
"""Times PyTorch's batch normalization on the CPU, for `bench --torch-csv`:

    bench --list | torch_bench.py [--threads N[,M...]] [--seconds S] > torch.csv

Reads the names of the cases ("NxCxS direction") from the standard input, writes
"NxCxS,direction,threads,contestant,us" lines to the standard output.

The kernels are called as directly as Python can: no autograd, and the gradient by its own operator.
PyTorch allocates its results anew in every call; malloc is told to keep memory, so that this does
not cost fresh pages each time.
"""
import argparse
import os
import resource
import statistics
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

SAMPLE_US = 200  # as in timing.c
FEWEST_ROUNDS = 5
EPS = 1e-5
MOMENTUM = 0.1  # PyTorch's: the weight of the new value


def prepare(name, direction):
    """Returns the call to time. N x D buffers are 2-dimensional, images N x C x S x 1."""
    n, c, s = map(int, name.split("x"))
    torch.manual_seed(n * c * s)
    sizes = (n, c) if s == 1 else (n, c, s, 1)
    x = torch.empty(sizes).uniform_(-1, 3)
    gamma, beta = torch.empty(c).uniform_(0.5, 1.5), torch.empty(c).uniform_(-1, 1)
    mean, var = torch.empty(c).uniform_(0.5, 1.5), torch.empty(c).uniform_(0.5, 1.5)

    def forward(training):
        return torch.native_batch_norm(x, gamma, beta, mean, var, training, MOMENTUM, EPS)

    if direction == "forward":
        return lambda: forward(True)
    if direction == "inference":
        return lambda: forward(False)
    dy = torch.empty(sizes).uniform_(-1, 1)
    _, saved_mean, saved_invstd = forward(True)
    operator = torch.ops.aten.native_batch_norm_backward.default
    return lambda: operator(dy, x, gamma, mean, var, saved_mean, saved_invstd, True, EPS,
                            [True, True, True])


def sample(call, calls):
    """Returns the microseconds that a call takes, and the pages that it faults in."""
    faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    start = time.perf_counter()
    for _ in range(calls):
        call()
    taken = time.perf_counter() - start
    faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - faults
    return taken / calls * 1e6, faults / calls


def measure(call, seconds):
    """Returns the medians of what sample does."""
    start = time.perf_counter()
    calls = 1
    call()
    while (us := sample(call, calls)[0]) * calls < SAMPLE_US:
        calls = int(calls * min(1.1 * SAMPLE_US / (us * calls), 8)) + 1
    samples = []
    while len(samples) < FEWEST_ROUNDS or time.perf_counter() - start < seconds:
        samples.append(sample(call, calls))
    return map(statistics.median, zip(*samples))


def main():
    processors = len(os.sched_getaffinity(0))
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0], allow_abbrev=False)
    parser.add_argument("--threads", default=f"1,{processors}" if processors > 1 else "1")
    parser.add_argument("--seconds", type=float, default=0.5)
    options = parser.parse_args()

    print(f"# PyTorch {torch.__version__}")
    print("shape,direction,threads,contestant,us")
    torch.set_grad_enabled(False)
    for line in sys.stdin:
        name, direction = line.split()[:2]
        for threads in map(int, options.threads.split(",")):
            torch.set_num_threads(threads)
            us, faults = measure(prepare(name, direction), options.seconds)
            print(f"{name},{direction},{threads},PyTorch,{us:.4g}", flush=True)
            if faults > 16:
                print(f"torch_bench.py: {name} {direction}: {faults:.0f} pages faulted in by each "
                      "call: PyTorch is charged for fresh memory", file=sys.stderr)


if __name__ == "__main__":
    main()
