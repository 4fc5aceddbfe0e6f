"""Handwritten digits: a support vector classifier by scikit-learn."""
