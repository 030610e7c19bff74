"""Views from the store against views from the image itself: PSNR by store size, on real images.

    python benchmarks/speed/view_fidelity.py FOLDER_OF_FILMS [--films 40]

The reference crops the decoded image and resizes it once, antialiased; ours crops what the store kept of it.
"""

import argparse
from pathlib import Path

import numpy as np
import torch

from chartray.pixels.read import decode_image, squash
from chartray.pixels.resampling import Boxes, crop_resize, resize_weights
from chartray.pixels.views import draw_boxes

KINDS = {"random 224": (224, (0.3, 1.0)), "focal 96": (96, (0.05, 0.3))}


def scaled(boxes: Boxes, height: float, width: float) -> Boxes:
    """Boxes of a store of size 1 in the pixels of an image."""
    return Boxes(boxes.left * width, boxes.top * height, boxes.width * width, boxes.height * height, boxes.flip)


def crop_of_film(image: np.ndarray, boxes: Boxes, size: int) -> torch.Tensor:
    """The reference: an image that is not square goes through the same matrices, one side at a time."""
    height, width = image.shape
    side = max(height, width)
    square = np.zeros((side, side), np.float32)
    square[:height, :width] = image
    axes = ((boxes.top, boxes.height), (boxes.left, boxes.width))
    rows, columns = (
        resize_weights(torch.from_numpy(start), torch.from_numpy(length), side, size) for start, length in axes
    )
    columns = torch.where(torch.from_numpy(boxes.flip)[:, None, None], columns.flip(1), columns)
    return (rows @ torch.from_numpy(square)[None] @ columns.transpose(1, 2))[:, None]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--films", type=int, default=40)
    arguments = parser.parse_args()
    paths = sorted(p for p in arguments.folder.rglob("*") if p.suffix.lower() in {".jpg", ".jpeg", ".png"})
    paths = paths[:: max(1, len(paths) // arguments.films)][: arguments.films]
    films = [decode_image(path) for path in paths]
    sides = np.array([film.image.shape for film in films])
    print(f"{len(films)} images, median {np.median(sides[:, 0]):.0f} x {np.median(sides[:, 1]):.0f} px")
    print("| store | view | PSNR dB, median (10th percentile) | median crop enlarged |")
    print("|---|---|---|---|")
    for size in (128, 256, 448):
        stored = [torch.from_numpy(squash(film, size))[None] for film in films]
        for kind, (view_size, scale) in KINDS.items():
            found, enlarged = [], []
            for row, film in enumerate(films):
                true = np.array([film.image.shape], float)
                box = draw_boxes(0, 0, np.array([row]), 1, true, 1, scale=scale, aspect=(0.75, 4 / 3), flip=0.5)
                reference = crop_of_film(film.image, scaled(box, *film.image.shape), view_size)
                ours = crop_resize(stored[row], np.array([0]), scaled(box, size, size), view_size)
                found.append(-10 * np.log10(float((ours - reference).square().mean())))
                enlarged.append(view_size / np.sqrt(box.width[0] * box.height[0]) / size)
            low, median = np.percentile(found, [10, 50])
            print(f"| {size} | {kind} | {median:.1f} ({low:.1f}) | {np.median(enlarged):.2f} |")


if __name__ == "__main__":
    main()
