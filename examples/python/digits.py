"""Digits as tensors, and the loop that both examples share."""

import pathlib
import time

import numpy as np
import torch

EXAMPLES = pathlib.Path(__file__).resolve().parents[1]


def load(name):
    """Images [B, 784] between 0 and 1, and labels [B]."""
    with np.load(EXAMPLES / name) as file:
        x = torch.from_numpy(file["x"]).float().reshape(-1, 784) / 255
        return x, torch.from_numpy(file["label"]).long()


def train(module, encode, score, loss, epochs, batch=64, lr=1e-3, reset=lambda: None):
    """Trains on the 8,000 digits and prints how many of the test digits are recognised."""
    x, label = load("train_digits/train.npz")
    test, test_label = load("digits/test.npz")
    optimizer = torch.optim.Adam(module.parameters(), lr=lr)
    generator = torch.Generator().manual_seed(0)
    start = time.time()
    for epoch in range(epochs):
        module.train()
        total = 0.0
        for index in torch.randperm(len(x), generator=generator).split(batch):
            optimizer.zero_grad()
            value = loss(module(encode(x[index])), label[index])
            value.backward()
            optimizer.step()
            reset()
            total += float(value.detach()) * len(index)
        print(f"epoch {epoch + 1}: loss {total / len(x):.4f}", flush=True)
    seconds = time.time() - start
    module.eval()
    with torch.no_grad():
        right = 0
        for index in torch.arange(len(test)).split(batch):
            right += int((score(module(encode(test[index]))).argmax(1) == test_label[index]).sum())
            reset()
    print(f"{right / len(test):.3f} of the test digits, {seconds:.1f} s of training")
    return right / len(test)
