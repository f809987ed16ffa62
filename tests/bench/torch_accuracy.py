#!/usr/bin/python3
"""torch_accuracy.py N D MEAN: prints PyTorch's row of the table that `peers` prints. The standard
input has, as floats, x and dy, each N x D, then gamma and beta; what should come of them is computed
here, by NumPy in double precision.
"""
import sys

try:
    import numpy
    import torch
except ImportError as error:
    sys.exit(f"torch_accuracy.py: {error} (Debian: python3-torch, for /usr/bin/python3)")

N, D = map(int, sys.argv[1:3])
EPS = 1e-5


def read(*sizes):
    floats = numpy.frombuffer(sys.stdin.buffer.read(4 * numpy.prod(sizes)), "f4")
    return floats.reshape(sizes).copy()


def units(got, want, scale):
    """The largest error, in units of 2^-24 of each feature's scale."""
    return (abs(got.detach().numpy().astype("f8") - want) / scale).max() * 2**24


x, dy, gamma, beta = read(N, D), read(N, D), read(D), read(D)

torch.set_num_threads(1)
layer = torch.nn.BatchNorm1d(D, eps=EPS, momentum=1)  # running_mean is the batch's
with torch.no_grad():
    layer.weight.copy_(torch.from_numpy(gamma))
    layer.bias.copy_(torch.from_numpy(beta))
inputs = torch.from_numpy(x).requires_grad_()
y = layer(inputs)
y.backward(torch.from_numpy(dy))

x, dy, gamma, beta = (values.astype("f8") for values in (x, dy, gamma, beta))
mean = x.mean(0)
deviation = x - mean
invstd = 1 / numpy.sqrt((deviation**2).mean(0) + EPS)
xhat = deviation * invstd
want_y = gamma * xhat + beta
want_dx = gamma * invstd * (dy - dy.mean(0) - xhat * (dy * xhat).mean(0))

errors = [
    units(y, want_y, abs(want_y).max(0)),
    units(layer.running_mean, mean, numpy.maximum(abs(mean), 1 / invstd)),
    units(inputs.grad, want_dx, abs(gamma * invstd * dy).max(0)),
]
print(
    f"| {sys.argv[3]} | PyTorch {torch.__version__} | {max(0, -numpy.log10(errors[0] * 2**-24)):.1f} |",
    *(f"{error:.{1 if error < 100 else 0}f} |" for error in errors),
)
