"""
From Python, without a package: a training step and inference on numpy arrays, through ctypes and the
shared library. Against the header's formulas in float64; torch's BatchNorm1d beside it, where torch is.

    python3 examples/16_ctypes.py [libbatchnorm.so]

Python does not see the header, so that a struct which is declared wrong here would be read and written
wrong. Three checks stand before that: of the version, with whose second number structs may change; of the
options, which must be the defaults that the header names; and of the size of bn_layer.
"""
import ctypes.util
import pathlib
import sys
from ctypes import POINTER, Structure, c_bool, c_char_p, c_float, c_int, c_size_t, c_ubyte, c_uint64

try:
    import numpy as np
except ImportError as error:
    print(f"SKIPPED: {error} (Debian: python3-numpy)")
    sys.exit(77)


ARRAYS = ["gamma", "beta", "dgamma", "dbeta", "running_mean", "running_var"]


class Options(Structure):  # bn_options
    _fields_ = [("eps", c_float), ("momentum", c_float), ("gamma_init", c_float), ("beta_init", c_float),
                ("scale", c_bool), ("shift", c_bool), ("track_running", c_bool), ("biased_running_var", c_bool),
                ("activation", c_int), ("num_threads", c_int), ("activation_slope", c_float),
                ("activation_max", c_float), ("inference_only", c_bool)]


class Layer(Structure):  # bn_layer; what is private has far more room here than it takes
    _fields_ = [("num_features", c_size_t), ("options", Options), ("frozen", c_bool),
                *((name, POINTER(c_float)) for name in ARRAYS), ("num_batches_tracked", c_uint64),
                ("saved_mean", POINTER(c_float)), ("saved_invstd", POINTER(c_float)), ("private", c_ubyte * 4096)]


def load(path):
    lib = ctypes.CDLL(path)
    lib.bn_version.restype = lib.bn_status_string.restype = c_char_p
    lib.bn_options_default.restype = Options

    def must(status):  # a call of the library that has to succeed
        if status != 0:
            raise RuntimeError(lib.bn_status_string(status).decode())

    # numpy refuses an array of another type, or with gaps, before the library would misread it; sizes are ours.
    floats = np.ctypeslib.ndpointer(np.float32, flags="C_CONTIGUOUS")
    for name, result, *arguments in [("bn_layer_init", must, c_size_t, POINTER(Options)), ("bn_layer_free", None),
                                     ("bn_layer_forward", must, c_size_t, floats, floats),
                                     ("bn_layer_infer", must, c_size_t, floats, floats),
                                     ("bn_layer_backward", must, c_size_t, floats, floats, floats)]:
        function = getattr(lib, name)
        function.restype, function.argtypes = result, [POINTER(Layer), *arguments]
    return lib


def check_declarations(lib):
    if not lib.bn_version().startswith(b"0.2."):
        sys.exit(f"written for version 0.2, this is {lib.bn_version().decode()}")
    options = lib.bn_options_default()
    defaults = {"eps": 1e-5, "momentum": 0.9, "gamma_init": 1, "beta_init": 0, "scale": True, "shift": True,
                "track_running": True, "biased_running_var": False, "activation": 0, "num_threads": 0,
                "activation_slope": 0.01, "activation_max": 6, "inference_only": False}
    wrong = [name for name, value in defaults.items() if np.float32(value) != getattr(options, name)]
    if wrong:
        sys.exit("bn_options is not as declared: " + ", ".join(wrong))
    # bn_layer_free zeroes a layer, whose size is how much of a room of ones that is.
    layer = Layer()
    ctypes.memset(ctypes.byref(layer), 0xFF, ctypes.sizeof(layer))
    lib.bn_layer_init(layer, 1, None)
    lib.bn_layer_free(layer)
    size = len(bytes(layer).rstrip(b"\xff"))
    if not Layer.private.offset < size < ctypes.sizeof(Layer):
        sys.exit(f"bn_layer is not as declared: it has {size} bytes")


def train_and_infer(lib, x, dy):
    """The library: a step of gradient descent on gamma and beta, then inference."""
    n, d = x.shape
    layer = Layer()
    lib.bn_layer_init(layer, d, None)
    views = {name: np.ctypeslib.as_array(getattr(layer, name), (d,)) for name in ARRAYS}  # no copies
    y, dx, inferred = np.empty_like(x), np.empty_like(x), np.empty_like(x)
    lib.bn_layer_forward(layer, n, x, y)
    lib.bn_layer_backward(layer, n, x, dy, dx)
    views["gamma"] -= np.float32(0.1) * views["dgamma"]
    views["beta"] -= np.float32(0.1) * views["dbeta"]
    lib.bn_layer_infer(layer, n, x, inferred)
    results = {"y": y, "dx": dx, "inference": inferred, **{name: view.copy() for name, view in views.items()}}
    lib.bn_layer_free(layer)  # from here on the views are of nothing
    return results


def train_and_infer_float64(x, dy, eps=1e-5, momentum=0.9):  # (the library's momentum is the float next to 0.9)
    x, dy, n = x.astype(float), dy.astype(float), len(x)
    mean, var = x.mean(0), x.var(0)
    invstd = 1 / np.sqrt(var + eps)
    xhat = (x - mean) * invstd
    dgamma, dbeta = (dy * xhat).sum(0), dy.sum(0)
    gamma, beta = 1 - 0.1 * dgamma, -0.1 * dbeta
    running_mean, running_var = (1 - momentum) * mean, momentum + (1 - momentum) * var * n / (n - 1)
    return {"y": xhat, "dx": invstd * (dy - (dbeta + xhat * dgamma) / n),
            "inference": gamma * (x - running_mean) / np.sqrt(running_var + eps) + beta,
            "gamma": gamma, "beta": beta, "dgamma": dgamma, "dbeta": dbeta,
            "running_mean": running_mean, "running_var": running_var}


def train_and_infer_torch(x, dy):
    import torch
    layer = torch.nn.BatchNorm1d(x.shape[1])
    tx = torch.tensor(x, requires_grad=True)
    y = layer(tx)
    y.backward(torch.tensor(dy))
    torch.optim.SGD(layer.parameters(), lr=0.1).step()
    inferred = layer.eval()(tx)
    tensors = {"y": y, "dx": tx.grad, "inference": inferred, "gamma": layer.weight, "beta": layer.bias,
               "dgamma": layer.weight.grad, "dbeta": layer.bias.grad,
               "running_mean": layer.running_mean, "running_var": layer.running_var}
    return {name: tensor.detach().numpy() for name, tensor in tensors.items()}


def main():
    build = pathlib.Path(__file__).resolve().parent.parent / "build"
    built = [str(path) for path in (build / "libbatchnorm.so", build / "release" / "libbatchnorm.so") if path.exists()]
    path = (sys.argv[1:] + built + [ctypes.util.find_library("batchnorm")])[0]
    if path is None:
        sys.exit("libbatchnorm.so is neither built nor installed: give its path")
    lib = load(path)
    check_declarations(lib)

    random = np.random.default_rng(16)
    x = random.normal([0, 50, -3, 1000], [1, 20, 0.1, 3], (256, 4)).astype(np.float32)
    dy = random.normal(0, 1, x.shape).astype(np.float32)
    exact = train_and_infer_float64(x, dy)
    columns = {"library": train_and_infer(lib, x, dy)}
    try:
        columns["torch"] = train_and_infer_torch(x, dy)
    except ImportError:
        pass
    # A few roundings to float of the largest value.
    limit, beyond = 4 * np.finfo(np.float32).eps, []
    print(f"{path}\nlargest difference from float64, beside the largest value (limit {limit:.1e})")
    print(f"{'':12}", *(f"{name:>9}" for name in columns))
    for name, want in exact.items():
        differences = [np.abs(column[name] - want).max() / np.abs(want).max() for column in columns.values()]
        print(f"{name:12}", *(f"{difference:9.1e}" for difference in differences))
        if not differences[0] <= limit:  # a NaN is beyond it, too
            beyond.append(name)
    if beyond:
        sys.exit("beyond the limit: " + ", ".join(beyond))


if __name__ == "__main__":
    main()
