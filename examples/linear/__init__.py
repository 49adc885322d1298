"""Federated linear models of scikit-learn: regression, logistic regression, a support vector
machine. You need no deep learning."""

from pathlib import Path

FOLDER = Path(__file__).parent
