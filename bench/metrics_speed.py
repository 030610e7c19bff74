"""Seconds of the bootstrap at the size of a large test set, against a scikit-learn loop.

    python bench/metrics_speed.py [--resamples 1000] [--loops 5]

36,640 films of 10,000 patients, 14 labels from 40 % to 1 %, scores with ties. The loop repeats films as often as their
patient was drawn, and calls roc_auc_score and average_precision_score of every label; it runs `loops` times and is
extrapolated.
"""

import argparse
import time
from collections.abc import Callable

import numpy as np
from sklearn.metrics import average_precision_score, roc_auc_score

from chartray.measure import calibration, delong, metrics, operating_point

FILMS, PATIENTS, LABELS = 36_640, 10_000, 14


def measured(name: str, work: Callable[[], object], times: float = 1) -> float:
    wall, processor = time.perf_counter(), time.process_time()
    work()
    wall, processor = time.perf_counter() - wall, time.process_time() - processor
    print(f"{name}: {wall * times:.1f} s, processor {processor * times:.1f} s", flush=True)
    return processor * times


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--resamples", type=int, default=1000)
    parser.add_argument("--loops", type=int, default=5)
    arguments = parser.parse_args()
    rng = np.random.default_rng(0)
    patient = rng.integers(0, PATIENTS, FILMS)
    latent = rng.normal(size=(PATIENTS, LABELS))[patient] + rng.normal(size=(FILMS, LABELS))
    rates = np.geomspace(0.4, 0.01, LABELS)
    truth = (
        latent + rng.normal(size=latent.shape) > np.sqrt(3) * np.quantile(rng.normal(size=100_000), 1 - rates)
    ) * 1.0
    score = np.round(1 / (1 + np.exp(-latent)), 4)

    def loop() -> None:
        for _ in range(arguments.loops):
            count = np.bincount(rng.integers(0, PATIENTS, PATIENTS), minlength=PATIENTS)
            rows = np.repeat(np.arange(FILMS), count[patient])
            for label in range(LABELS):
                roc_auc_score(truth[rows, label], score[rows, label])
                average_precision_score(truth[rows, label], score[rows, label])

    size = f"{arguments.resamples} resamples"
    ours = measured(
        f"both metrics, {size}", lambda: metrics.resample(truth, score, patient, resamples=arguments.resamples)
    )
    theirs = measured(f"scikit-learn loop, {size}, from {arguments.loops}", loop, arguments.resamples / arguments.loops)
    print(f"ratio of processor seconds: {theirs / ours:.0f}")
    sampled = metrics.sample(truth, patient, resamples=arguments.resamples)
    measured("draws alone", lambda: metrics.sample(truth, patient, resamples=arguments.resamples))
    measured("calibration", lambda: calibration.resample_calibration(truth, score, sampled))
    limits = operating_point.threshold_at_specificity(truth, score)
    measured("operating point", lambda: operating_point.resample_at_threshold(truth, score, limits, sampled))
    measured("DeLong, films and patients", lambda: [delong.delong(truth, score, patients=p) for p in (None, patient)])


if __name__ == "__main__":
    main()
