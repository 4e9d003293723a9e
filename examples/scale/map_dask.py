"""Maps a compiled net over a data set on two Dask workers, and sweeps a setting; both are checked against one process.

    pip install ./crates/snnc-python 'dask[distributed]'
    python examples/scale/map_dask.py
"""

import pathlib

import numpy as np

import snnc

DIGITS = pathlib.Path(__file__).resolve().parent.parent / "digits"
SWEEP = """
net main(x: u8[B, 28, 28]; v_threshold = 1.0) -> f32[B, 784] {
    let image = repeat(f32(flatten(x, start = 1)) / 255, 8)
    mean(lif(image, v_threshold = v_threshold), axis = 0)
}
"""
_NETS = {}


def net_of(key, make):
    """A worker compiles a net once."""
    if key not in _NETS:
        _NETS[key] = make()
    return _NETS[key]


def predict(images):
    net = net_of("digits", lambda: snnc.load(DIGITS / "digits.snn", weights=DIGITS / "digits_csnn.safetensors", net="main", threads=1))
    return net(images).argmax(1)


def rate(images, v_threshold):
    net = net_of(v_threshold, lambda: snnc.compile(SWEEP, settings={"v_threshold": v_threshold}, threads=1))
    return float(net(images).mean())


def main():
    from dask.distributed import Client, LocalCluster

    data = np.load(DIGITS / "test.npz")
    parts = np.array_split(data["x"], 8)
    thresholds = [0.1, 0.2, 0.3, 0.4]
    with LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster, Client(cluster) as client:
        predicted = np.concatenate(client.gather(client.map(predict, parts)))
        rates = client.gather(client.map(rate, [data["x"][:200]] * len(thresholds), thresholds))
    assert (predicted == predict(data["x"])).all()
    assert rates == [rate(data["x"][:200], t) for t in thresholds] and rates == sorted(rates, reverse=True)
    print(f"two workers: {(predicted == data['label']).mean():.3f} of the digits; firing rates {', '.join(f'{r:.4f}' for r in rates)}: equal to one process")


if __name__ == "__main__":
    main()
