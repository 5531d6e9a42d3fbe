"""A small classifier of grey images; it provides features and measures how useful synthetic images are."""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d, cross_entropy, dropout

from vaegan_pl.data.augmentation import Augmentation
from vaegan_pl.progress import track

CHANNELS = (16, 32, 64, 128)
FEATURE_STAGE, FEATURE_SIDE = 3, 2
FEATURES = CHANNELS[FEATURE_STAGE - 1] * FEATURE_SIDE**2
HEAD_SIDE = 4
STEPS, BATCH = 1000, 64
LEARNING_RATE, WEIGHT_DECAY, DROPOUT = 3e-3, 1e-2, 0.3
AUGMENTATION = Augmentation(horizontal_flip=0.5, shift=0.06, brightness=0.1, contrast=0.1)
AT_ONCE = 256

Images = Float[Tensor, "image 1 side side"]


class Classifier(nn.Module):
    """Four strided convolutions and a linear layer.

    Args:
        classes: number of classes.
    """

    def __init__(self, classes: int) -> None:
        super().__init__()
        stages = []
        for i, (before, after) in enumerate(zip((1, *CHANNELS), CHANNELS, strict=False)):
            side = 3 if i else 5
            convolution = nn.Conv2d(before, after, side, stride=2, padding=side // 2, bias=False)
            stages.append(nn.Sequential(convolution, nn.BatchNorm2d(after), nn.ReLU()))
        self.stages = nn.Sequential(*stages)
        self.head = nn.Linear(CHANNELS[-1] * HEAD_SIDE**2, classes)

    def forward(self, x: Images) -> Float[Tensor, "image classes"]:
        """Logits of the classes, for images in [-1, 1]."""
        pooled = adaptive_avg_pool2d(self.stages(x), HEAD_SIDE).flatten(1)
        logits: Tensor = self.head(dropout(pooled, DROPOUT, self.training))
        return logits

    def features(self, x: Images) -> Float[Tensor, "image 256"]:
        """The maps of the third stage, averaged over the quarters of the image."""
        return adaptive_avg_pool2d(self.stages[:FEATURE_STAGE](x), FEATURE_SIDE).flatten(1)


def fit(
    x: Images, labels: Int64[Tensor, " image"], classes: int, seed: int, description: str, steps: int = STEPS
) -> Classifier:
    """Train a classifier for a fixed number of steps on augmented images, on the device of the images.

    On a CPU, the same arguments give the same classifier; on a GPU, the order of sums makes small differences.

    Args:
        x: images in [-1, 1].
        labels: their classes.
        classes: number of classes.
        seed: seed of initial weights, order, augmentation and dropout.
        description: text of the progress bar.
        steps: number of batches of `BATCH` images.
    """
    with torch.random.fork_rng(devices=[x.device] if x.device.type == "cuda" else []):
        torch.manual_seed(seed)
        model = Classifier(classes).to(x.device).to(memory_format=torch.channels_last)
        optimizer = torch.optim.AdamW(model.parameters(), weight_decay=WEIGHT_DECAY)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, total_steps=steps)
        random = np.random.default_rng(seed)
        waiting: list[int] = []
        for _ in track(range(steps), description, "batch"):
            while len(waiting) < BATCH:
                waiting += random.permutation(len(x)).tolist()
            chosen, waiting = torch.tensor(waiting[:BATCH], device=x.device), waiting[BATCH:]
            draws = torch.from_numpy(random.random((BATCH, 5), dtype=np.float32)).to(x.device)
            loss = cross_entropy(model(AUGMENTATION(x[chosen], draws)), labels[chosen])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    model.eval()
    return model


@torch.no_grad()
def predict(model: Classifier, x: Images) -> Int64[Tensor, " image"]:
    """The most likely class of each image."""
    return torch.cat([model(batch).argmax(1) for batch in x.split(AT_ONCE)])


def balanced_accuracy(right: Sequence[bool] | np.ndarray, labels: Sequence[int] | np.ndarray) -> float:
    """The share of images that were classified correctly, averaged over classes; in [0, 1]."""
    right, labels = np.asarray(right), np.asarray(labels)
    return float(np.mean([right[labels == label].mean() for label in np.unique(labels)]))
