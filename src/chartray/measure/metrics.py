"""AUROC, average precision and their intervals by patient."""
