"""A damped oscillator: a solver, and a multi-layer perceptron that stands in for it."""
