"""Makes train.npz and test.npz: a click reaches two ears, one of them up to four steps later than the other.

x[N, 24, 2] u8 holds the spikes of both ears, label[N] i64 the difference in steps plus 4. Each sample has three clicks at
random times, and a few spikes of noise. Run in this folder; needs numpy.
"""
import numpy as np

rng = np.random.default_rng(5)
T, most = 24, 4

def make(n):
    x = np.zeros((n, T, 2), np.uint8)
    label = rng.integers(0, 2 * most + 1, n)
    for i in range(n):
        lag = label[i] - most
        for _ in range(3):
            t = rng.integers(most, T - most)
            x[i, t - min(lag, 0), 0] = 1
            x[i, t + max(lag, 0), 1] = 1
        for ear in range(2):
            x[i, rng.integers(0, T), ear] ^= rng.random() < 0.3
    return x, label

for name, n in (("train", 3000), ("test", 500)):
    x, label = make(n)
    np.savez_compressed(f"{name}.npz", x=x, label=label)
