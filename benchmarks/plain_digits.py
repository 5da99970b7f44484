"""The default project's first step as a plain script, to compare `python train.py` with."""

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset, random_split

digits = load_digits()
images = torch.tensor(digits.images, dtype=torch.float32).unsqueeze(1) / 16
dataset = TensorDataset(images, torch.tensor(digits.target))
parts = random_split(dataset, [0.7, 0.15, 0.15], torch.Generator().manual_seed(42))
loader = DataLoader(parts[0], 64, shuffle=True)
model = nn.Sequential(
    *(nn.Conv2d(1, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
    *(nn.Conv2d(32, 64, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(1024, 10)),
)
optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
inputs, labels = next(iter(loader))
loss = nn.functional.cross_entropy(model(inputs), labels)
loss.backward()
optimizer.step()
