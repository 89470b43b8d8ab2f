"""The parts of a policy: each turns what is seen into tokens; the expert turns tokens and noise into actions."""
