"""exchange.py numpy|torch|safetensors PROGRAM...: layers to and from Python, by files.

Exits with 77 where what it needs is not installed.
"""
import importlib
import os
import subprocess
import sys
import tempfile

WITH, *PROGRAM = sys.argv[1:]
try:
    import numpy

    import safetensors_numpy

    for module in {"numpy": [], "torch": ["torch"], "safetensors": ["torch", "safetensors.torch"]}[WITH]:
        importlib.import_module(module)
except ImportError as error:
    print(f"SKIPPED: {error} (Debian: python3-numpy, python3-torch; PyPI: safetensors)")
    sys.exit(77)

D, N = 37, 500


def run(*arguments, given=b""):
    return subprocess.run([*PROGRAM, *map(str, arguments)], input=given, stdout=subprocess.PIPE, check=True).stdout


def check_saved(path, load):
    """What the library saves beside what is there already."""
    safetensors_numpy.save(path, {"fc.weight": numpy.arange(6, dtype="<f4").reshape(2, 3)}, {"format": "pt"})
    run("save", path, "bn")
    got = load(path)
    want = {
        "fc.weight": numpy.arange(6, dtype="f4").reshape(2, 3),
        "bn.weight": numpy.array([0.5, 1, -2], "f4"),
        "bn.bias": numpy.array([0, -1, 0.1], "f4"),
        "bn.running_mean": numpy.array([10, -0.25, 0], "f4"),
        "bn.running_var": numpy.array([4, 1, 0.01], "f4"),
        "bn.num_batches_tracked": numpy.array(12345678901, "i8"),
    }
    assert got.keys() == want.keys(), got.keys()
    for name, array in want.items():
        assert got[name].dtype == array.dtype and got[name].shape == array.shape, name
        assert (got[name] == array).all(), name
    return got


def check_inferred(path, name, x, want):
    """Inference of the file's layer equals `want`: in units of float rounding of the terms."""
    y = numpy.frombuffer(run("infer", path, name, D, N, given=x.astype("<f4").tobytes()), "<f4").reshape(N, D)
    error = numpy.abs(y.astype("f8") - want) / (1 + numpy.abs(want))
    print(f"{name or 'no name'}: largest error {error.max():.1e}")
    assert error.max() < 2e-6, error.max()


def make_values(random):
    return {
        "weight": random.uniform(0.5, 1.5, D),
        "bias": random.uniform(-1, 1, D),
        "running_mean": random.uniform(-1, 1, D),
        "running_var": random.uniform(0.5, 2, D),
    }


def with_numpy(path, random):
    arrays, metadata = {}, None
    check_saved(path, lambda path: safetensors_numpy.load(path)[0])
    metadata = safetensors_numpy.load(path)[1]
    assert metadata["format"] == "pt", metadata
    assert numpy.float32(metadata["bn.eps"]) == numpy.float32(1e-5), metadata
    assert numpy.float32(metadata["bn.momentum"]) == numpy.float32(0.9), metadata
    x = random.normal(0.5, 2, (N, D)).astype("f4")
    for dtype in "<f4", "<f8", "<f2":
        v = {name: array.astype(dtype) for name, array in make_values(random).items()}
        arrays = {f"a.{name}": array for name, array in v.items()}
        arrays["a.num_batches_tracked"] = numpy.array(3, "<i8")
        safetensors_numpy.save(path, arrays, {"a.eps": repr(1e-5), "a.momentum": repr(1 - 0.1)})
        v = {name: array.astype("f4").astype("f8") for name, array in v.items()}
        root = numpy.sqrt(v["running_var"] + 1e-5)
        check_inferred(path, "a", x, v["weight"] * (x.astype("f8") - v["running_mean"]) / root + v["bias"])


def make_torch_model(random):
    import torch

    model = torch.nn.Sequential(torch.nn.Linear(D, D), torch.nn.BatchNorm1d(D))
    with torch.no_grad():
        for name, array in make_values(random).items():
            getattr(model[1], name).copy_(torch.from_numpy(array))
    for _ in range(3): # in training, so that all of it is PyTorch's
        model(torch.from_numpy(random.normal(0, 1, (64, D)).astype("f4")))
    return model.eval()


def with_torch(path, random, save, load):
    import torch

    bn = torch.nn.BatchNorm1d(3)
    state = check_saved(path, load)
    state = {name[3:]: torch.tensor(array) for name, array in state.items() if name.startswith("bn.")}
    bn.load_state_dict(state) # strict: what is missing or unknown is an error
    assert bn.num_batches_tracked.item() == 12345678901
    x = random.normal(0.5, 2, (N, D)).astype("f4")
    model = make_torch_model(random)
    for module, name in (model, "1"), (model[1], ""):
        os.remove(path)
        save(module.state_dict(), path)
        with torch.no_grad():
            check_inferred(path, name, x, model[1](torch.from_numpy(x)).numpy().astype("f8"))


def main():
    random = numpy.random.default_rng(1)
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "model.safetensors")
        if WITH == "numpy":
            with_numpy(path, random)
        elif WITH == "torch":
            save = lambda state, path: safetensors_numpy.save(path, {k: v.numpy() for k, v in state.items()})
            with_torch(path, random, save, lambda path: safetensors_numpy.load(path)[0])
        else:
            from safetensors.torch import load_file, save_file

            with_torch(path, random, save_file, lambda path: {k: v.numpy() for k, v in load_file(path).items()})


main()
