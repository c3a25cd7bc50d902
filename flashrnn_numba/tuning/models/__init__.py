"""One model per kernel: its variables, constraints and cost, for the solver."""
