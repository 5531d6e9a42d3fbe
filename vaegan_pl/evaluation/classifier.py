"""A small classifier of grey images; it provides features and measures how useful synthetic images are."""

from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from queue import Queue
from threading import Event

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d, cross_entropy

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

    def forward(self, x: Images, kept: Float[Tensor, "image input"] | None = None) -> Float[Tensor, "image classes"]:
        """Logits of the classes.

        Args:
            x: images in [-1, 1].
            kept: dropout mask, by which the inputs of the linear layer are multiplied. None: no dropout.
        """
        pooled = adaptive_avg_pool2d(self.stages(x), HEAD_SIDE).flatten(1)
        logits: Tensor = self.head(pooled if kept is None else pooled * kept)
        return logits

    def features(self, x: Images) -> Float[Tensor, "image 256"]:
        """The maps of the third stage, averaged over the quarters of the image."""
        return adaptive_avg_pool2d(self.stages[:FEATURE_STAGE](x), FEATURE_SIDE).flatten(1)


@dataclass(frozen=True)
class Labelled:
    """Images and their classes.

    Attributes:
        x: images in [-1, 1].
        labels: class indices.
    """

    x: Images
    labels: Int64[Tensor, " image"]

    def some(self, n: int, seed: int) -> "Labelled":
        """At most `n` images, drawn at random without replacement."""
        chosen = torch.randperm(len(self.x), generator=torch.Generator().manual_seed(seed))[:n]
        return Labelled(self.x[chosen], self.labels[chosen])

    def to(self, device: torch.device) -> "Labelled":
        """The same images and labels on a device."""
        return Labelled(self.x.to(device), self.labels.to(device))


@dataclass(frozen=True)
class Training:
    """How to train a classifier.

    Attributes:
        images: what it is trained on.
        classes: number of classes.
        seed: seed of initial weights, order, augmentation and dropout.
        steps: number of batches of `BATCH` images.
    """

    images: Labelled
    classes: int
    seed: int
    steps: int


def fit(trainings: Sequence[Training], description: str) -> list[Classifier]:
    """Train classifiers on augmented images, on the device of the images.

    On a CPU, each is trained by one thread, and several at a time. So the same arguments give the same classifiers for
    any number of threads. On a GPU, the order of sums makes small differences.

    Args:
        trainings: how to train each classifier.
        description: text of the progress bar.
    """
    if not trainings:
        return []
    models = [_initial(training) for training in trainings]
    threads, on_cpu = torch.get_num_threads(), all(one.images.x.device.type == "cpu" for one in trainings)
    done: Queue[Future[None] | None] = Queue()
    stopped = Event()
    pool = ThreadPoolExecutor(threads if on_cpu else 1, initializer=torch.set_num_threads, initargs=(1,))
    try:
        for model, training in zip(models, trainings, strict=True):
            pool.submit(_fit, model, training, done, stopped).add_done_callback(done.put)
        for _ in track(_steps(done, len(models)), description, "batch", sum(one.steps for one in trainings)):
            pass
    finally:
        stopped.set()
        pool.shutdown()
        torch.set_num_threads(threads)  # which the pool's threads have changed for threads to come
    return models


def _initial(training: Training) -> Classifier:
    x = training.images.x
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(training.seed)
        return Classifier(training.classes).to(x.device).to(memory_format=torch.channels_last)


def _steps(done: "Queue[Future[None] | None]", running: int) -> Iterator[None]:
    """Yields None for each step of any thread, until all have ended.

    Raises:
        Exception: that of a thread.
    """
    while running:
        ended = done.get()
        if ended is None:
            yield
        else:
            ended.result()
            running -= 1


def _fit(model: Classifier, training: Training, done: "Queue[Future[None] | None]", stopped: Event) -> None:
    x, labels, device = training.images.x, training.images.labels, training.images.x.device
    optimizer = torch.optim.AdamW(model.parameters(), weight_decay=WEIGHT_DECAY)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, total_steps=training.steps)
    random, generator = np.random.default_rng(training.seed), torch.Generator().manual_seed(training.seed)
    waiting: list[int] = []
    for _ in range(training.steps):
        if stopped.is_set():
            return
        while len(waiting) < BATCH:
            waiting += random.permutation(len(x)).tolist()
        chosen, waiting = torch.tensor(waiting[:BATCH], device=device), waiting[BATCH:]
        draws = torch.from_numpy(random.random((BATCH, 5), dtype=np.float32)).to(device)
        kept = (torch.rand(BATCH, model.head.in_features, generator=generator) >= DROPOUT) / (1 - DROPOUT)
        loss = cross_entropy(model(AUGMENTATION(x[chosen], draws), kept.to(device)), labels[chosen])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        done.put(None)
    model.eval()


@torch.no_grad()
def predict(model: Classifier, x: Images) -> Float[Tensor, "image classes"]:
    """The probability of each class for each image."""
    return torch.cat([model(batch).softmax(1) for batch in x.split(AT_ONCE)])


def balanced_accuracy(right: Sequence[bool] | np.ndarray, labels: Sequence[int] | np.ndarray) -> float:
    """The share of images that were classified correctly, averaged over classes; in [0, 1]."""
    right, labels = np.asarray(right), np.asarray(labels)
    return float(np.mean([right[labels == label].mean() for label in np.unique(labels)]))
