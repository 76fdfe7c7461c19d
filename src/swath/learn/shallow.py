"""The classical pipeline: features made by hand, standardised, reduced, and a shallow learner.

What was done before networks learnt their features, and what they have to be better than. All of
it is scikit-learn's; a step that is fitted (the scaler, the reduction) is part of the pipeline, so
that nobody fits it on more than the training part.
"""

from __future__ import annotations

from itertools import combinations
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from sklearn.decomposition import PCA
from sklearn.ensemble import RandomForestClassifier
from sklearn.feature_selection import SelectKBest, f_classif
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC

Floats = NDArray[np.float64]
Learner = Literal["logistic", "knn", "forest", "svm"]
Reduction = Literal["none", "pca", "select"]


def raw_values(image: Floats) -> Floats:
    """All values of each patch as they are: (patch, band, y, x) -> (patch, band · y · x)."""
    return image.reshape(len(image), -1)


def hand_made(image: Floats) -> Floats:
    """What an analyst would compute of a patch: (patch, band, y, x) -> (patch, feature).

    The central pixel's bands; of each pair of bands the normalised difference (b - a) / (b + a) of
    their means, of which the NDVI is one; and, of patches of several pixels, mean and standard
    deviation of each band.

    Source:
        Rouse et al.: Monitoring vegetation systems in the Great Plains with ERTS, 1974 (NDVI).
    """
    _, bands, height, width = image.shape
    mean = image.mean(axis=(2, 3))
    found = [image[:, :, height // 2, width // 2]]
    if height * width > 1:
        found += [mean, image.std(axis=(2, 3))]
    for a, b in combinations(range(bands), 2):
        total = mean[:, b] + mean[:, a]
        known = np.where(total == 0, 1, total)
        found.append(((mean[:, b] - mean[:, a]) / known)[:, None])
    return np.concatenate(found, axis=1)


def pipeline(
    learner: Learner,
    *,
    standardise: bool = True,
    reduction: Reduction = "none",
    keep: int = 2,
    neighbours: int = 5,
    trees: int = 100,
    seed: int = 0,
) -> Pipeline:
    """Standardise → extract or select features → classify, to be fitted on the training part.

    Args:
        learner: logistic regression, k nearest neighbours, a random forest, or a support vector
            machine with a Gaussian kernel.
        standardise: whether each feature is brought to mean 0 and standard deviation 1.
        reduction: `pca` extracts principal components; `select` takes the features in which the
            classes differ the most (F-test of one feature at a time).
        keep: components or features that are left.
        neighbours: of `knn`.
        trees: of `forest`.
        seed: of `forest`.

    Source:
        Pearson: On lines and planes of closest fit, Philosophical Magazine 2, 1901 (PCA);
        Cover, Hart: Nearest neighbor pattern classification, IEEE TIT 13, 1967;
        Breiman: Random Forests, Machine Learning 45, 2001;
        Cortes, Vapnik: Support-vector networks, Machine Learning 20, 1995.
    """
    learners: dict[str, Any] = {
        "logistic": LogisticRegression(max_iter=2000),
        "knn": KNeighborsClassifier(neighbours),
        "forest": RandomForestClassifier(trees, random_state=seed),
        "svm": SVC(),
    }
    reductions: dict[str, Any] = {
        "none": "passthrough",
        "pca": PCA(keep, svd_solver="full"),
        "select": SelectKBest(f_classif, k=keep),
    }
    return Pipeline(
        [
            ("standardise", StandardScaler() if standardise else "passthrough"),
            ("reduce", reductions[reduction]),
            ("classify", learners[learner]),
        ]
    )
